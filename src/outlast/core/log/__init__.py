"""The site's append-only Merkle log, in C2SP formats that other people's tools read.

    merkle       RFC 6962 tree: hashes, right edge, proofs (pure)
    entry        an event as bytes: the leaf
    note         signed notes; checkpoint: a tree head as one; signers: the key types; logkey: a log's own keys
    tiles        names and bytes of tiles and entry bundles (pure); edge: how a tree grows into them (pure)
    archive      tiles, bundles and checkpoint on a disk; files: the operations that takes
    proof        .tlog-proof files
    fsck         recomputes a whole log and compares

A leaf's life: ``encode_entry`` -> stored and hashed into the store's CompactRange in one transaction (``core.store``)
-> ``TileArchive.grow`` -> ``sign_checkpoint`` -> ``TileArchive.publish`` -> anybody's proof.
The formats are described in docs/reference/log.md.
"""
