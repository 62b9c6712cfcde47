"""The data folder, before anything else of a site."""

from __future__ import annotations

import pathlib

import pytest

from outlast.core.errors import Refused
from outlast.wiring.config import Config, SiteSection
from outlast.wiring.site import open_site


@pytest.mark.anyio
@pytest.mark.parametrize("folder", ["file/data", "file"])
async def test_a_folder_that_cannot_be_used_is_named(tmp_path: pathlib.Path, folder: str) -> None:
    """Not a traceback: which folder, why, and what to do."""
    (tmp_path / "file").write_bytes(b"")
    config = Config(site=SiteSection(data=str(tmp_path / folder)))
    with pytest.raises(Refused) as refused:
        async with open_site(config):
            pass
    assert refused.value.code == "data-folder-unusable"
    assert folder in refused.value.message
