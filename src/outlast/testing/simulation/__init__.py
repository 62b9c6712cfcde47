"""A site under simulation: real decisions, handlers, publishers and proofs, in scripted trouble.

Time, disk, network, providers, people and crashes are events on one heap, drawn from one seed. There is no event loop,
no thread and no real clock, so a seed is a schedule, and a failing seed fails again. ADR 0006 says why handlers are
written so that this is possible, ADR 0011 what a seed is and what is real here; docs/howto/simulate.md is for whoever
runs it.

    engine      the heap, coroutines as tasks, the trace
    checks      always, sometimes, reachable
    faults      fault points, on in some seeds and off in others
    swarm       how large a seed's site is, and what kinds of trouble come how often
    database    the store that nodes share: locks, conflicts, lost answers
    door        what `Committer` does        worker   what `Runner` does        eyes   what `wiring.watch` does
    publishing  the log's publishers, and a reader who believes nothing
    parts       keys, providers, authorities, blobs, clocks, a PDF that is no PDF
    node        a process through its lives  site     what the nodes share
    clients     programs that ask            people   those who operate         restored   a backup put back by mistake
    run         one seed from beginning to rest               verdict   what must hold then
    sweep       many seeds on all cores      seedfile seeds that once failed    report, command   for people

What lies below is not simulated: `tests/integration/test_crash_*` kill real processes on a real disk.
"""
