"""A durable accept as a FastAPI application does it with procrastinate on PostgreSQL.

The request is validated into a model, deferred as a task under a queueing lock made of the idempotency key, and
answered 202. Run by uvicorn with httptools and uvloop; PEER_DSN names the database.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import procrastinate
from fastapi import FastAPI, Header, HTTPException
from procrastinate.exceptions import AlreadyEnqueued
from pydantic import BaseModel, Field

CONNECTIONS = 20
"""Of the pool. More did not help: PostgreSQL shares the cores with the server."""

tasks = procrastinate.App(
    connector=procrastinate.PsycopgConnector(
        conninfo=os.environ["PEER_DSN"], min_size=CONNECTIONS, max_size=CONNECTIONS
    )
)


@tasks.task(name="sign", queue="signing")
async def sign(request: dict[str, object]) -> None:
    """What a worker would run; none does while accepts are measured."""


class SignatureRequest(BaseModel):
    """The typed body."""

    document: str
    class_name: str = Field(alias="class")
    title: str
    reference: str


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Hold the pool open while the server runs."""
    async with tasks.open_async():
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/signature-requests", status_code=202)
async def accept(
    request: SignatureRequest, idempotency_key: Annotated[str, Header()]
) -> dict[str, object]:
    """Durable before the answer; the same key is refused by the lock."""
    try:
        job = await sign.configure(queueing_lock=idempotency_key).defer_async(
            request=request.model_dump()
        )
    except AlreadyEnqueued as error:
        raise HTTPException(409, "already accepted") from error
    return {"id": job, "status": "accepted"}
