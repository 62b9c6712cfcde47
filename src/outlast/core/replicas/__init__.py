"""One set of blobs in several stores at once.

The life of a copy that could not be written:

1. ``ReplicatedBlobs.put`` gives the bytes to every store in use; some have them durably, some do not
2. the debt goes on record: event ``blobs.copy_owed`` and a job per store that lacks the blob, one transaction
3. only now is the put answered
4. when the store is back its jobs run: the blob is read from a store that has it, checked, written
5. event ``blobs.copy_settled``, in one transaction with the end of the job

If the power goes after 1, nobody was told that the blob is stored: it is unreferenced, and a scrub finds it. After 4,
the job runs again and finds the copy there.

Deletions are owed in the same way. ``model`` decides, ``debts`` records and settles, ``health`` knows which stores are
in use, ``fanout`` and ``store`` write and read, ``scrub`` walks everything.
"""
