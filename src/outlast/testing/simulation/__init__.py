"""A site under simulation: the real commit plan, deciders, router and job handlers, in scripted trouble.

Time, disk, network, providers and crashes are events on one heap, drawn from one seed. There is no event loop, no
thread and no real clock, so a seed is a schedule, and a failing seed fails again. ADR 0006 says why handlers are
written so that this is possible.

    engine    the heap, coroutines as tasks, the trace
    checks    always (invariants) and sometimes (was it reached at all)
    swarm     what a seed switches on, and how hard
    parts     keys, providers, authorities, blobs, a PDF that is no PDF
    node      what `Committer` and `Runner` do, on the heap instead of an event loop
    clients   people and programs that ask, repeat themselves, withdraw, approve, replay
    run       one seed from beginning to quiescence, and what must hold then

What lies below is not simulated: `tests/integration/test_crash_*` kill real processes on a real disk.
"""
