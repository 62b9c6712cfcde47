"""The table of operations."""

from __future__ import annotations

from outlast.operations.views import Status
from outlast.signing.api import MAX_PAGE, SignatureAsk
from outlast.signing.views import STATUS_TEXT, DocumentView, RequestView
from outlast.surfaces.http import (
    blobs,
    credentials,
    documents,
    events,
    jobs,
    journals,
    keys,
    ledger,
    links,
    operate,
    requests,
)
from outlast.surfaces.http import openapi as description
from outlast.surfaces.http.blobwire import BlobsView, DebtPage, ScrubAsk
from outlast.surfaces.http.headers import NDJSON
from outlast.surfaces.http.linkwire import LinkAsk, LinkGiven, UploadLinkAsk
from outlast.surfaces.http.route import ANY_KEY, Answer, Parameter, Route
from outlast.surfaces.http.wire import (
    Accepted,
    ApiKeyAsk,
    ApiKeyMade,
    ApiKeyPage,
    BindingAsk,
    BulkAnswer,
    CancelAsk,
    DocumentAdded,
    EnrolAsk,
    JobKinds,
    JobPage,
    JobView,
    KeyPage,
    ModeAsk,
    ModeView,
    ProofView,
    ProviderPage,
    Ready,
    ReasonAsk,
    ReceiptView,
    RequestPage,
)

_LIMIT = Parameter(
    name="limit",
    about="Items in the page.",
    schema={"type": "integer", "minimum": 1, "maximum": MAX_PAGE},
)
_CURSOR = Parameter(name="cursor", about="``next`` of the page before this one.")
_PREFER = Parameter(
    name="Prefer",
    place="header",
    about="`wait=N` holds the answer back up to N seconds (60 at most) until there is something final to say;"
    " `receipt=published` until the entries are under a signed checkpoint.",
)
_IF_MATCH = Parameter(name="If-Match", place="header", about="Only at this version (an ETag).")
_IF_NONE_MATCH = Parameter(
    name="If-None-Match", place="header", about="The version known already (an ETag)."
)
_RECEIPT = ("ETag", "Outlast-Receipt")
_BINARY = "application/octet-stream"


def _done(type_: object, about: str = "Done.", *headers: str) -> dict[int, Answer]:
    return {200: Answer(type=type_, about=about, headers=headers)}


def _moved(about: str) -> dict[int, Answer]:
    return _done(Accepted, about, *_RECEIPT)


_DOCUMENTS = (
    Route(
        method="POST", path="/v1/documents", id="addDocument", tag="documents",
        summary="Upload a document; its hash is locked from here on.",
        scope="documents:write", handler=documents.add, body=_BINARY, idempotent=True,
        parameters=(
            Parameter(name="class", about="The document class; `default` if left out."),
            Parameter(name="title", about="The caller's own words; encrypted in the log."),
            _PREFER,
        ),
        answers={201: Answer(type=DocumentAdded, about="Taken in.", headers=("Location", *_RECEIPT))},
        refusals=(413, 415),
    ),
    Route(
        method="GET", path="/v1/documents/{id}", id="getDocument", tag="documents",
        summary="A document's facts.", scope="documents:read", handler=documents.get,
        answers=_done(DocumentView, "The document."),
    ),
    Route(
        method="GET", path="/v1/documents/{id}/content", id="getDocumentContent", tag="documents",
        summary="A document's bytes as taken in.", scope="documents:read", handler=documents.content,
        answers={200: Answer(media=_BINARY, about="The bytes.", headers=("ETag",))},
    ),
)  # fmt: skip

_REQUESTS = (
    Route(
        method="POST", path="/v1/signature-requests", id="requestSignature", tag="signatures",
        summary="Ask for one or more signatures, in order, on a document.",
        scope="signatures:write", handler=requests.accept, body=SignatureAsk, idempotent=True,
        parameters=(_PREFER,),
        answers={
            202: Answer(type=Accepted, about="Durable; it will be signed.", headers=("Location", *_RECEIPT)),
            200: Answer(type=RequestView, about="With `Prefer: wait`, it is final already.",
                        headers=("Location", "ETag")),
        },
        refusals=(409, 413),
    ),
    Route(
        method="POST", path="/v1/signature-requests:bulk", id="requestSignatures", tag="signatures",
        summary="Ask for many; each succeeds or fails alone. Also takes application/x-ndjson.",
        scope="signatures:write", handler=requests.accept_many, body=list[SignatureAsk], idempotent=True,
        answers={207: Answer(type=BulkAnswer, about="One answer for each, in order.")},
        refusals=(413,),
    ),
    Route(
        method="GET", path="/v1/signature-requests", id="listSignatureRequests", tag="signatures",
        summary="Requests, newest first.", scope="signatures:read", handler=requests.list_,
        parameters=(
            Parameter(name="status", about="Only these.",
                      schema={"type": "string", "enum": list(STATUS_TEXT)}),
            _LIMIT, _CURSOR,
        ),
        answers=_done(RequestPage, "A page."),
    ),
    Route(
        method="GET", path="/v1/signature-requests/{id}", id="getSignatureRequest", tag="signatures",
        summary="A request as it stands.", scope="signatures:read", handler=requests.get,
        parameters=(_PREFER, _IF_NONE_MATCH),
        answers={
            200: Answer(type=RequestView, about="The request.", headers=("ETag",)),
            304: Answer(about="Still at the version known.", headers=("ETag",)),
        },
    ),
    Route(
        method="GET", path="/v1/signature-requests/{id}/file", id="getSignedFile", tag="signatures",
        summary="The signed PDF, or the detached signature (CMS).",
        scope="signatures:read", handler=requests.file, refusals=(409,),
        answers={200: Answer(media=_BINARY, about="The newest signed file.", headers=("ETag",))},
    ),
    Route(
        method="GET", path="/v1/signature-requests/{id}/evidence", id="getEvidence", tag="signatures",
        summary="An evidence bundle (zip), to be checked without this site.",
        scope="signatures:read", handler=requests.evidence, refusals=(409,),
        answers={200: Answer(media="application/zip", about="The bundle.")},
    ),
    Route(
        method="POST", path="/v1/signature-requests/{id}/approve", id="approveSignatureRequest",
        tag="signatures", summary="Approve a request of a class that needs it; not by whoever made it.",
        scope="signatures:approve", handler=requests.approve, idempotent=True, parameters=(_PREFER,),
        answers=_moved("Approved."),
    ),
    Route(
        method="POST", path="/v1/signature-requests/{id}/cancel", id="cancelSignatureRequest",
        tag="signatures", summary="Withdraw a request that has no signature yet.",
        scope="signatures:write", handler=requests.cancel, body=CancelAsk, body_optional=True,
        idempotent=True, parameters=(_IF_MATCH, _PREFER), answers=_moved("Withdrawn."),
        refusals=(409, 412),
    ),
)  # fmt: skip

_KEYS = (
    Route(
        method="GET", path="/v1/keys", id="listKeys", tag="keys", summary="Signing keys.",
        scope="keys:read", handler=keys.list_, answers=_done(KeyPage, "All of the tenant's keys."),
    ),
    Route(
        method="PUT", path="/v1/keys/{name}/bindings/{provider}", id="enrolKey", tag="keys",
        summary="Bind a provider's key and its certificate chain to a name.",
        scope="keys:write", handler=keys.enrol, body=EnrolAsk, answers=_moved("Enrolled."),
    ),
    Route(
        method="POST", path="/v1/keys/{name}:disable", id="disableKey", tag="keys",
        summary="Let a key, or its binding at one provider, sign no more.",
        scope="keys:write", handler=keys.disable, body=BindingAsk, body_optional=True,
        idempotent=True, answers=_moved("Disabled."),
    ),
    Route(
        method="POST", path="/v1/keys/{name}:enable", id="enableKey", tag="keys",
        summary="Let it sign again.", scope="keys:write", handler=keys.enable, body=BindingAsk,
        body_optional=True, idempotent=True, answers=_moved("Enabled."),
    ),
)  # fmt: skip

_LOG = (
    Route(
        method="POST", path="/v1/log/entries", id="appendEntries", tag="receipts",
        summary="Put entries of your own into the log: up to 1,000 JSON objects, one a line, all of them or none.",
        scope="log:append", handler=journals.append, body=NDJSON, idempotent=True, refusals=(413, 415),
        parameters=(
            Parameter(name="journal", about="The journal they belong to; `default` if left out."),
            _PREFER,
        ),
        answers=_moved("In the log, in order, at `receipt.index` and after."),
    ),
    Route(
        method="GET", path="/v1/receipts/{index}", id="getReceipt", tag="receipts",
        summary="Proof that an entry is in the log; with `Accept: text/plain` the .tlog-proof file.",
        scope="signatures:read", handler=ledger.receipt, parameters=(_PREFER,), refusals=(409,),
        answers=_done(ProofView, "Entry, inclusion proof and signed checkpoint."),
    ),
    Route(
        method="GET", path="/v1/events", id="followEvents", tag="events",
        summary="The tenant's log entries as they are written (server-sent events).",
        scope="signatures:read", handler=events.follow,
        parameters=(
            Parameter(name="from", about="Index of the first entry wanted; now if left out.",
                      schema={"type": "integer", "minimum": 0}),
            Parameter(name="Last-Event-ID", place="header", about="Go on after this event."),
        ),
        answers={200: Answer(media="text/event-stream", about="A stream without end.")},
        refusals=(400,),
    ),
    Route(
        method="GET", path="/log/checkpoint", id="getCheckpoint", tag="log",
        summary="The signed checkpoint (C2SP tlog-checkpoint).", scope="log:read",
        handler=ledger.checkpoint, answers={200: Answer(media="text/plain", about="A signed note.")},
    ),
    Route(
        method="GET", path="/log/tile/{path...}", id="getTile", tag="log",
        summary="A tile or entry bundle (C2SP tlog-tiles): `<L>/<N>[.p/<W>]` or `entries/<N>[.p/<W>]`.",
        scope="log:read", handler=ledger.tile,
        answers={200: Answer(media=_BINARY, about="The tile; it never changes.")},
    ),
)  # fmt: skip

_JOBS = (
    Route(
        method="GET", path="/v1/jobs", id="listJobs", tag="jobs",
        summary="Jobs of the key's tenant and the site's own (copies owed, scrubs), oldest first.",
        scope="operate", handler=jobs.list_,
        parameters=(
            Parameter(name="state", about="Only these.",
                      schema={"type": "string", "enum": ["ready", "leased", "done", "dead", "parked"]}),
            _LIMIT, _CURSOR,
        ),
        answers=_done(JobPage, "A page."),
    ),
    Route(
        method="GET", path="/v1/jobs/{id}", id="getJob", tag="jobs", summary="A job.",
        scope="operate", handler=jobs.get, answers=_done(JobView, "The job."),
    ),
    *(
        Route(
            method="POST", path=f"/v1/jobs/{{id}}:{verb}", id=f"{verb}Job", tag="jobs", summary=summary,
            scope="operate", handler=handler, body=ReasonAsk, idempotent=True, refusals=(409,),
            answers=_moved("Done, and on record."),
        )
        for verb, handler, summary in (
            ("replay", jobs.replay, "Run a dead or parked job again."),
            ("park", jobs.park, "Set a job aside until it is replayed."),
            ("discard", jobs.discard, "End a job that shall never run again."),
        )
    ),
    Route(
        method="GET", path="/v1/job-kinds", id="listJobKinds", tag="jobs", summary="Kinds of job.",
        scope="operate", handler=jobs.kinds, answers=_done(JobKinds, "All kinds."),
    ),
    Route(
        method="POST", path="/v1/job-kinds/{kind}:pause", id="pauseJobKind", tag="jobs",
        summary="Start no more jobs of a kind at this site; those running go on.",
        scope="operate", handler=jobs.pause, body=ReasonAsk, idempotent=True,
        answers=_moved("Paused, and on record."),
    ),
    Route(
        method="POST", path="/v1/job-kinds/{kind}:resume", id="resumeJobKind", tag="jobs",
        summary="Start jobs of a kind again.", scope="operate", handler=jobs.resume, body=ReasonAsk,
        idempotent=True, answers=_moved("Resumed, and on record."),
    ),
)  # fmt: skip

_OPERATE = (
    Route(
        method="GET", path="/v1/status", id="getStatus", tag="operations", summary="The status page.",
        scope=ANY_KEY, handler=operate.status, answers=_done(Status, "How the site is."),
    ),
    Route(
        method="GET", path="/v1/mode", id="getMode", tag="operations", summary="The mode.",
        scope=ANY_KEY, handler=operate.get_mode, answers=_done(ModeView, "The mode.", "ETag"),
    ),
    Route(
        method="PUT", path="/v1/mode", id="putMode", tag="operations",
        summary="Set the mode by hand, or release it.", scope="operate", handler=operate.put_mode,
        body=ModeAsk, idempotent=True, parameters=(_IF_MATCH,), answers=_moved("Done, and on record."), refusals=(409, 412),
    ),
    Route(
        method="GET", path="/v1/providers", id="listProviders", tag="operations",
        summary="Providers and their health.", scope="operate", handler=operate.providers,
        answers=_done(ProviderPage, "All providers."),
    ),
    Route(
        method="POST", path="/v1/providers/{name}:disable", id="disableProvider", tag="operations",
        summary="Take a provider out of use.", scope="operate", handler=operate.disable_provider,
        body=ReasonAsk, idempotent=True, answers=_moved("Disabled."),
    ),
    Route(
        method="POST", path="/v1/providers/{name}:enable", id="enableProvider", tag="operations",
        summary="Put a provider back to use.", scope="operate", handler=operate.enable_provider,
        body=ReasonAsk, idempotent=True, answers=_moved("Enabled."),
    ),
    Route(
        method="GET", path="/livez", id="getLivez", tag="health", summary="Whether the process answers.",
        scope=None, handler=operate.livez, answers={200: Answer(media="text/plain", about="It does.")},
    ),
    Route(
        method="GET", path="/readyz", id="getReadyz", tag="health",
        summary="Whether to send it new work.", scope=None, handler=operate.readyz,
        answers={200: Answer(type=Ready, about="Yes."), 503: Answer(type=Ready, about="Not now.")},
    ),
    Route(
        method="GET", path="/metrics", id="getMetrics", tag="health", summary="Figures for Prometheus.",
        scope="operate", handler=operate.metrics,
        answers={200: Answer(media="text/plain", about="Prometheus text format.")},
    ),
)  # fmt: skip

_BLOBS = (
    Route(
        method="GET", path="/v1/blobs", id="getBlobs", tag="operations",
        summary="Where documents are kept, and the newest scrub.", scope="operate",
        handler=blobs.show, answers=_done(BlobsView, "Stores, debts, scrub."),
    ),
    Route(
        method="GET", path="/v1/blobs/debts", id="listBlobDebts", tag="operations",
        summary="Copies and deletions that a store still owes, newest blob first.", scope="operate",
        handler=blobs.debts, parameters=(_LIMIT, _CURSOR), answers=_done(DebtPage, "A page."),
    ),
    Route(
        method="POST", path="/v1/blobs/scrub", id="beginScrub", tag="operations",
        summary="Read every copy of every document, and mend what can be mended.", scope="operate",
        handler=blobs.begin, body=ScrubAsk, body_optional=True, idempotent=True,
        answers=_moved("Begun, and on record."), refusals=(409,),
    ),
    *(
        Route(
            method="POST", path=f"/v1/blobs/scrub:{verb}", id=f"{verb}Scrub", tag="operations",
            summary=summary, scope="operate", handler=handler, idempotent=True,
            answers=_moved("Done, and on record."), refusals=(409,),
        )
        for verb, handler, summary in (
            ("pause", blobs.pause, "Let the scrub rest."),
            ("resume", blobs.resume, "Let the scrub go on."),
            ("stop", blobs.stop, "Give the scrub up."),
        )
    ),
)  # fmt: skip

_LINKS = (
    Route(
        method="POST", path="/v1/documents/{id}/link", id="linkDocument", tag="links",
        summary="A short-lived link to download a document without an API key.",
        scope="documents:read", handler=links.of_document, body=LinkAsk, body_optional=True,
        idempotent=True, answers={201: Answer(type=LinkGiven, about="The link.", headers=_RECEIPT)},
    ),
    Route(
        method="POST", path="/v1/signature-requests/{id}/file-link", id="linkSignedFile", tag="links",
        summary="A short-lived link to download the signed file without an API key.",
        scope="signatures:read", handler=links.of_file, body=LinkAsk, body_optional=True,
        idempotent=True, answers={201: Answer(type=LinkGiven, about="The link.", headers=_RECEIPT)},
    ),
    Route(
        method="POST", path="/v1/upload-links", id="linkUpload", tag="links",
        summary="A short-lived link to upload one document without an API key.",
        scope="documents:write", handler=links.for_upload, body=UploadLinkAsk, body_optional=True,
        idempotent=True, answers={201: Answer(type=LinkGiven, about="The link.", headers=_RECEIPT)},
    ),
    Route(
        method="GET", path="/v1/links/{link}", id="useDownloadLink", tag="links",
        summary="Download what the link is for; on record.", scope=None, handler=links.download,
        answers={200: Answer(media=_BINARY, about="The bytes.", headers=("ETag",))},
        refusals=(403, 409, 410),
    ),
    Route(
        method="PUT", path="/v1/links/{link}", id="useUploadLink", tag="links",
        summary="Upload the document that the link is for; on record.", scope=None,
        handler=links.upload, body=_BINARY,
        answers={201: Answer(type=DocumentAdded, about="Taken in.", headers=_RECEIPT)},
        refusals=(403, 410, 413, 415),
    ),
    Route(
        method="DELETE", path="/v1/links/{link}", id="dropLink", tag="links",
        summary="Revoke a link, by its id.", scope="documents:write", handler=links.drop,
        answers=_done(ReceiptView, "It is worth nothing any more.", *_RECEIPT),
    ),
)  # fmt: skip

_CREDENTIALS = (
    Route(
        method="GET", path="/v1/api-keys", id="listApiKeys", tag="api-keys", summary="API keys.",
        scope="admin", handler=credentials.list_, parameters=(_LIMIT, _CURSOR),
        answers=_done(ApiKeyPage, "A page."),
    ),
    Route(
        method="POST", path="/v1/api-keys", id="createApiKey", tag="api-keys",
        summary="Make an API key; its token is shown once.", scope="admin",
        handler=credentials.create, body=ApiKeyAsk, idempotent=True,
        answers={201: Answer(type=ApiKeyMade, about="Made.", headers=_RECEIPT)},
    ),
    Route(
        method="DELETE", path="/v1/api-keys/{id}", id="revokeApiKey", tag="api-keys",
        summary="Revoke an API key, for good.", scope="admin", handler=credentials.revoke,
        answers=_moved("Revoked."),
    ),
)  # fmt: skip

_API = (
    *_DOCUMENTS,
    *_REQUESTS,
    *_LINKS,
    *_KEYS,
    *_LOG,
    *_JOBS,
    *_OPERATE,
    *_BLOBS,
    *_CREDENTIALS,
)

ROUTES = (
    *_API,
    Route(
        method="GET", path="/openapi.json", id="getOpenApi", tag="health",
        summary="This description.", scope=None, handler=description.handler(_API),
        answers={200: Answer(about="OpenAPI 3.1.")},
    ),
)  # fmt: skip
"""Every operation there is."""
