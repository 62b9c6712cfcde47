"""The remote signing appliance: the keys port served over HTTP to named clients, by mutual TLS only.

The life of a request: TLS 1.3 lets in who holds a certificate of the clients' CA (`server`) -> `access` names the
client and what it may sign with -> the body is read within bounds and the operation looked up in `memory` -> the
`Signer` given by wiring signs -> one audit line -> the answer. The process that holds keys does nothing else.
"""
