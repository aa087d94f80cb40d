"""/v1/files: multipart to disk, limits before reading, one tenant beside another, what a crash leaves."""

from __future__ import annotations

import asyncio
import os

import pytest

from octavo.config.engine import EngineConfig
from octavo.config.files import FilesConfig
from octavo.config.serve import ServeConfig
from octavo.core.errors import EngineDead
from octavo.server.files.store import FileStore
from tests.server.asgi import Call, ask

FILES = "/v1/files"
DATA = b'{"custom_id": "a"}\r\n\x00\xff--edge\r\n' * 50


def form(*parts: tuple[str, str | None, bytes], edge: str = "edge") -> tuple[bytes, dict[str, str]]:
    """A body of (name, file name, content), and its headers."""
    body = b""
    for name, filename, content in parts:
        label = f'; filename="{filename}"' if filename is not None else ""
        body += f'--{edge}\r\nContent-Disposition: form-data; name="{name}"{label}\r\n\r\n'.encode()
        body += content + b"\r\n"
    return body + f"--{edge}--\r\n".encode(), {"content-type": f"multipart/form-data; boundary={edge}"}


def batch(content: bytes = DATA, name: str = "in.jsonl"):
    return form(("purpose", None, b"batch"), ("file", name, content))


async def upload(house, content: bytes = DATA, headers: dict[str, str] | None = None, **more):
    raw, kind = batch(content, **more)
    return await ask(house.app, "POST", FILES, raw=raw, headers={**kind, **(headers or {})})


@pytest.fixture
def files(open_house, tmp_path):
    """Makes houses that keep their files in one folder."""

    def make(**settings):
        keys = settings.pop("keys", ())
        config = FilesConfig(files_dir=str(tmp_path / "files"), **settings)
        return open_house(config=EngineConfig(files=config, serve=ServeConfig(api_key=keys)))

    return make


async def test_a_file_comes_back_as_it_was(files, tmp_path):
    house = files()
    assert not (tmp_path / "files").exists()  # nobody has sent anything yet
    assert (await ask(house.app, "GET", FILES)).json()["data"] == []
    made = await upload(house)
    assert made.status == 200
    file = made.json()
    assert file["bytes"] == len(DATA) and file["filename"] == "in.jsonl" and file["purpose"] == "batch"
    assert file["object"] == "file" and file["status"] == "processed"
    assert file["expires_at"] == file["created_at"] + 30 * 86400
    assert (await ask(house.app, "GET", f"{FILES}/{file['id']}")).json() == file
    content = await ask(house.app, "GET", f"{FILES}/{file['id']}/content")
    assert content.content == DATA and content.headers["x-content-type-options"] == "nosniff"
    ranged = await ask(house.app, "GET", f"{FILES}/{file['id']}/content", headers={"Range": "bytes=9-2"})
    assert ranged.status == 200 and ranged.content == DATA
    assert (await ask(house.app, "DELETE", f"{FILES}/{file['id']}")).json()["deleted"] is True
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        assert (await ask(house.app, method, f"{FILES}/{file['id']}{path}")).status == 404
    assert house.service.files.quota.held("") == 0


async def test_the_folder_is_private_and_holds_only_names_of_ours(files, tmp_path):
    house = files()
    names = ["../../etc/passwd", "/etc/passwd", "..", "a\\b", "x" * 5000, "\u202egnp.exe", ""]
    for name in names:
        made = await upload(house, name=name.replace("\\", "\\\\"))
        assert made.status in (200, 413), made.content  # a head of 5,000 bytes is too long
        if made.status == 200:
            assert len(made.json()["filename"]) <= 255
    root = tmp_path / "files"
    assert sorted(path.name for path in root.iterdir()) == ["batches", "files", "lock", "partial"]
    assert not list((root / "partial").iterdir())
    for path in (root / "files").iterdir():
        kind, _, rest = path.name.partition("-")
        assert kind == "file" and len(rest.partition(".")[0]) == 32
        assert path.stat().st_mode & 0o077 == 0
    assert root.stat().st_mode & 0o777 == 0o700
    for id in ("..", "../lock", "%2e%2e", "file-" + "0" * 32, "\x00", "a" * 9000):
        assert (await ask(house.app, "GET", f"{FILES}/{id}/content")).status == 404


async def test_lists_turn_pages(files):
    house = files()
    ids = [(await upload(house, b"x" * n)).json()["id"] for n in range(1, 6)]

    async def listed(query: str):
        reply = await ask(house.app, "GET", FILES, query=query)
        assert reply.status == 200, reply.content
        return [one["id"] for one in reply.json()["data"]], reply.json()

    assert (await listed(""))[0] == ids[::-1]
    assert (await listed("order=asc"))[0] == ids
    first, page = await listed("order=asc&limit=2")
    assert first == ids[:2] and page["has_more"] and page["last_id"] == ids[1]
    last, page = await listed(f"order=asc&limit=3&after={ids[1]}")
    assert last == ids[2:] and not page["has_more"]
    assert (await listed("purpose=batch_output"))[0] == []
    for query, field in (
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
        ("after=no", "after"),
    ):
        reply = await ask(house.app, "GET", FILES, query=query)
        assert reply.status == 400 and reply.error["param"] == field, query


@pytest.mark.parametrize(
    "parts,field,words",
    [
        ([("file", "a", b"x")], "purpose", "missing"),
        ([("purpose", None, b"batch")], "file", "no file"),
        ([("purpose", None, b"fine-tune"), ("file", "a", b"x")], "purpose", "fine-tune"),
        ([("purpose", None, b"batch"), ("file", "a", b"x"), ("file", "b", b"y")], "body", "twice"),
        ([("purpose", None, b"batch")] * 2 + [("file", "a", b"x")], "body", "twice"),
        ([(f"f{n}", None, b"x") for n in range(20)], "body", "too large"),
        ([("purpose", None, b"b" * 2000), ("file", "a", b"x")], "body", "longer than"),
        (
            [("purpose", None, b"batch"), ("file", "a", b"x"), ("expires_after[seconds]", None, b"5")],
            "expires_after",
            "3600",
        ),
        (
            [("purpose", None, b"batch"), ("file", "a", b"x"), ("expires_after[seconds]", None, b"4000")],
            "expires_after",
            "anchor",
        ),
    ],
)
async def test_bad_forms_name_the_field_and_leave_nothing(files, tmp_path, parts, field, words):
    house = files()
    raw, headers = form(*parts)
    reply = await ask(house.app, "POST", FILES, raw=raw, headers=headers)
    assert reply.status in (400, 413) and reply.error["param"] == field and words in reply.error["message"]
    assert house.service.files.quota.held("") == 0 and not +house.service.files.uploads
    assert not list((tmp_path / "files").rglob("*file-*"))


async def test_expiry_is_what_was_asked_for(files):
    house = files()
    raw, headers = form(
        ("file", "a", b"x"),
        ("purpose", None, b"batch"),
        ("expires_after[anchor]", None, b"created_at"),
        ("expires_after[seconds]", None, b"3600"),
    )
    file = (await ask(house.app, "POST", FILES, raw=raw, headers=headers)).json()
    assert file["expires_at"] == file["created_at"] + 3600
    clock = house.service.files.clock
    house.service.files.clock = lambda: clock() + 3601 * 10**9
    assert (await ask(house.app, "GET", f"{FILES}/{file['id']}")).status == 404
    assert (await ask(house.app, "GET", FILES)).json()["data"] == []
    assert house.service.files.quota.held("") == 0


async def test_broken_bodies_are_refused(files):
    house = files()
    raw, headers = batch()
    for body, kind in (
        (raw[:-30], headers["content-type"]),
        (raw, "multipart/form-data; boundary=other"),
        (raw, "multipart/form-data"),
        (raw, "application/json"),
        (b"", headers["content-type"]),
        (b"\x00" * 500, headers["content-type"]),
    ):
        reply = await ask(house.app, "POST", FILES, raw=body, headers={"content-type": kind})
        assert reply.status == 400 and reply.error["message"] and reply.error["param"], (body[:20], kind)
    assert not +house.service.files.uploads and house.service.files.quota.held("") == 0


async def test_sizes_are_refused_before_they_are_read(files, tmp_path):
    house = files(max_file_bytes=1000, max_files_bytes=2500)
    exact = await upload(house, b"x" * 1000)
    assert exact.status == 200
    large = await upload(house, b"x" * 1001)
    assert large.status == 413 and "1000 bytes" in large.error["message"]
    # announced: refused although not one byte of it was sent
    call = Call(house.app, "POST", FILES, raw=b"", headers={**batch()[1], "content-length": str(1 << 30)})
    assert await call.started() == 413
    assert [part async for part in call.parts()]
    await call.ended()
    assert (await upload(house, b"x" * 1000)).status == 200
    full = await upload(house, b"x" * 501)
    assert full.status == 413 and "together" in full.error["message"] and "delete" in full.error["message"]
    assert (await upload(house, b"x" * 500)).status == 200
    assert house.service.files.quota.held("") == 2500
    assert not list((tmp_path / "files" / "partial").iterdir())


async def test_other_bodies_keep_their_own_limit(open_house, tmp_path):
    config = FilesConfig(files_dir=str(tmp_path / "files"))
    house = open_house(config=EngineConfig(files=config, serve=ServeConfig(max_body_bytes=1024)))
    assert (await upload(house, b"x" * 5000)).status == 200
    assert (await ask(house.app, "POST", "/v1/completions", raw=b"x" * 5000)).status == 413


async def test_so_many_uploads_at_once(files):
    house = files(keys=("one", "two"))
    raw, kind = batch()
    slow = []
    for _ in range(16):
        call = Call(house.app, "POST", FILES, raw=raw, headers={**kind, "Authorization": "Bearer one"})
        call._inbox.get_nowait()
        call._inbox.put_nowait({"type": "http.request", "body": raw[:500], "more_body": True})
        slow.append(call)
    while sum(house.service.files.uploads.values()) < 16:
        await asyncio.sleep(0)
    more = await upload(house, headers={"Authorization": "Bearer one"})
    assert more.status == 503 and more.headers["retry-after"]
    assert (await upload(house, headers={"Authorization": "Bearer two"})).status == 200  # not another's fault
    for call in slow:
        call.leave()
        await call.started()
        await call.ended()
    assert (await upload(house, headers={"Authorization": "Bearer one"})).status == 200


async def test_what_is_announced_is_refused_at_once(files):
    house = files(max_files_bytes=200_000)
    call = Call(house.app, "POST", FILES, raw=b"", headers={**batch()[1], "content-length": "300000"})
    assert await call.started() == 413
    assert [part async for part in call.parts()]
    await call.ended()
    assert house.service.files.quota.held("") == 0


async def test_a_client_that_leaves_leaves_nothing(files, tmp_path):
    house = files()
    raw, headers = batch()
    call = Call(house.app, "POST", FILES, raw=raw, headers=headers)
    call._inbox.get_nowait()  # instead: the first half, and then nobody
    call._inbox.put_nowait({"type": "http.request", "body": raw[:500], "more_body": True})
    call.leave()
    assert await call.started() == 499
    await call.ended()
    assert not +house.service.files.uploads and house.service.files.quota.held("") == 0
    assert not list((tmp_path / "files" / "partial").iterdir())


async def test_tenants_do_not_see_each_other(files):
    house = files(keys=("one", "two"), max_files_bytes=2000)
    mine, other = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
    id = (await upload(house, headers=mine)).json()["id"]
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        assert (await ask(house.app, method, f"{FILES}/{id}{path}", headers=other)).status == 404
    assert (await ask(house.app, "GET", FILES, headers=other)).json()["data"] == []
    assert (await upload(house, headers=other)).status == 200  # one's files take nothing of the other's room
    assert (await ask(house.app, "GET", f"{FILES}/{id}", headers=mine)).status == 200


async def test_files_outlive_the_server_and_leftovers_do_not(files, tmp_path):
    first = files()
    ids = [(await upload(first, b"x" * n)).json()["id"] for n in (1, 2, 3)]
    root = tmp_path / "files"
    (root / "partial" / "half").write_bytes(b"x")
    (root / "files" / ("file-" + "0" * 32 + ".data")).write_bytes(b"no record")
    (root / "files" / ("file-" + "1" * 32 + ".json")).write_bytes(b"{broken")
    second = files()
    blocked = await ask(second.app, "GET", FILES)
    assert blocked.status == 503 and "--files-dir" in blocked.error["message"]  # the first still runs
    first.service.files.close()
    listed = (await ask(second.app, "GET", FILES, query="order=asc")).json()["data"]
    assert [one["id"] for one in listed] == ids and second.service.files.quota.held("") == 6
    assert not list((root / "partial").iterdir()) and len(list((root / "files").iterdir())) == 6


def test_a_folder_that_is_not_private_is_refused(tmp_path):
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    os.chmod(open_to_all, 0o755)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "file").write_bytes(b"")
    for path in (open_to_all, link, tmp_path / "file"):
        with pytest.raises(EngineDead, match="folder for files"):
            FileStore(path, FilesConfig()).open()
    assert not (tmp_path / "elsewhere").exists()
    first, second = (FileStore(tmp_path / "good", FilesConfig()) for _ in range(2))
    first.open()
    with pytest.raises(EngineDead):
        second.open()
    first.close()
    second.open()
    second.close()
