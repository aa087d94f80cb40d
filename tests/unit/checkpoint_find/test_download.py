import hashlib
import multiprocessing
import os

import httpx
import pytest

from octavo.checkpoint.download import Broken, fetch, locked, need_space
from octavo.core.errors import UserError
from tests.unit.web import serving

BODY = os.urandom(3 << 20)
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def site():
    with serving() as site:
        site.pages["/file"] = BODY
        yield site


def get(site, target, body=BODY, sha=SHA):
    shares = []
    with httpx.Client(trust_env=False) as client:
        fetch(client, site.url + "/file", target, len(body), sha, lambda stage, share: shares.append(share))
    return shares


def test_a_file_arrives_whole_and_tells_how_far_it_is(site, tmp_path):
    shares = get(site, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert os.listdir(tmp_path) == ["f"]


def test_a_broken_connection_is_resumed_where_it_broke(site, tmp_path):
    site.break_after = [1_000_000, 500_000]
    get(site, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY
    starts = [wanted for _, _, wanted in site.asked]
    assert starts[0] is None and len(starts) == 3
    assert 0 < int(starts[1][6:-1]) < int(starts[2][6:-1])


def test_a_part_of_an_earlier_run_is_used(site, tmp_path):
    (tmp_path / "f.part").write_bytes(BODY[:1000])
    get(site, tmp_path / "f")
    assert site.asked == [("GET", "/file", "bytes=1000-")]
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_server_without_ranges_starts_anew(site, tmp_path):
    site.ranges = False
    (tmp_path / "f.part").write_bytes(b"x" * 1000)
    get(site, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_wrong_part_is_discarded_and_the_next_run_succeeds(site, tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * 1000)
    with pytest.raises(Broken, match="checksum"):
        get(site, tmp_path / "f")
    assert os.listdir(tmp_path) == []
    get(site, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_part_that_is_too_long_is_discarded(site, tmp_path):
    (tmp_path / "f.part").write_bytes(BODY + b"more")
    get(site, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def test_another_file_never_gets_the_name(site, tmp_path):
    site.pages["/file"] = BODY[:-1] + b"?"
    with pytest.raises(Broken, match="checksum"):
        get(site, tmp_path / "f")
    assert os.listdir(tmp_path) == []


def test_a_source_that_never_ends_does_not_fill_the_disk(site, tmp_path):
    site.pages["/file"] = BODY * 2
    with pytest.raises(Broken, match="more than"):
        get(site, tmp_path / "f")
    assert (tmp_path / "f.part").stat().st_size <= len(BODY)


def test_errors_of_the_source_are_told(site, tmp_path):
    site.pages["/file"] = (503, {}, b"")
    with pytest.raises(Broken, match="503"):
        get(site, tmp_path / "f")


def test_a_connection_that_makes_no_progress_ends(site, tmp_path):
    site.break_after = [0] * 10
    with pytest.raises(Broken):
        get(site, tmp_path / "f")
    assert len(site.asked) == 1


def test_no_space_is_told_before_anything_is_fetched(tmp_path):
    with pytest.raises(UserError) as caught:
        need_space(tmp_path, 1 << 60)
    assert "OCTAVO_HOME" in caught.value.hint


def _hold(path, held, release):
    with locked(path):
        held.set()
        release.wait(20)


def test_the_lock_holds_between_processes(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "lock", held, release))
    other.start()
    assert held.wait(20)
    import fcntl

    with (tmp_path / "lock").open("a") as file, pytest.raises(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    release.set()
    with locked(tmp_path / "lock"):
        pass
    other.join()
