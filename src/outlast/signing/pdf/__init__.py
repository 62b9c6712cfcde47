"""PDF signatures (PAdES, EN 319 142-1) in three steps that fit a system with outages.

    intake        inspect, prepare   parses untrusted bytes: in a worker process (outlast.signing.sandbox)
    signing time  revision           fills and hashes; 0.02 ms for a one-page document; parses nothing
    afterwards    verify             judges the result with pyHanko, offline

``revision``, ``slots`` and ``facts`` may be imported anywhere. ``inspect``, ``prepare``, ``document`` and ``verify``
import pyHanko (0.4 to 1 s, 40 MB): only worker processes and the ``verify`` command load them.
"""
