"""Places: one meaning on a disk and on a server, and what passes on a bad network."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
import zipfile

import pytest
from servers import CREDENTIALS, web_server

from stitchsafe.volumes import Place, PlaceError, PlaceSyntaxError


@pytest.fixture(params=["disk", "object store"])
def place(request, tmp_path):
    if request.param == "disk":
        return Place.of(tmp_path / "place")
    return Place.of(f"{request.getfixturevalue('bucket').url}/place")


def test_what_is_written_is_read_listed_and_removed(place):
    assert not place.exists()
    assert place.children() == place.listing() == []
    with pytest.raises(FileNotFoundError):
        (place / "a").read_bytes()
    (place / "a").write_bytes(b"one")
    (place / "a").write_bytes(b"two")
    (place / "b/c").write_bytes(b"")
    (place / "ba").write_bytes(b"three")
    assert (place / "a").read_text() == "two"
    assert (place / "b/c").is_file()
    assert not (place / "b").is_file()
    assert (place / "b").is_dir()
    assert place.listing() == ["a", "b/c", "ba"]
    assert place.listing("b") == ["b/c", "ba"]
    assert place.children() == ["a", "b", "ba"]
    assert dict(place.read_many(["a", "absent", "ba"])) == {"a": b"two", "ba": b"three"}
    (place / "b").remove()
    assert place.listing() == ["a", "ba"]  # its namesakes stay
    (place / "b").remove()  # nothing to remove is no error
    copy = pickle.loads(pickle.dumps(place))
    assert copy == place
    copy.remove()
    assert not place.exists()


def test_of_several_that_create_one_succeeds(place):
    won: list[bytes] = []

    def create(content: bytes) -> None:
        if (place / "key").create(content):
            won.append(content)

    threads = [threading.Thread(target=create, args=(bytes([n]),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (place / "key").read_bytes() == won[0]
    assert not (place / "key").create(b"late")


def test_no_hard_links_no_harm(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    place = Place.of(tmp_path / "key")
    assert place.create(b"mine")
    assert not place.create(b"other")
    assert place.read_bytes() == b"mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("fault", ["late", "busy", "cut", "lost", "down"])
def test_faults_that_pass_are_not_noticed(bucket, fault):
    place = Place.of(f"{bucket.url}/place")
    number = iter(range(10**6))
    bucket.faults.choose = lambda *_: fault if next(number) % 3 == 0 else None
    for n in range(3):
        (place / f"{n}").write_bytes(bytes([n]) * 1000)
        assert (place / f"{n}").read_bytes() == bytes([n]) * 1000
    assert place.listing() == ["0", "1", "2"]
    assert bucket.faults.done[fault] >= 3
    assert fault == "late" or len(bucket.faults.seen) > 7  # some were made again


def test_a_lost_reply_is_not_taken_for_another_writer(bucket):
    place = Place.of(f"{bucket.url}/key")
    lost = iter(["lost", "lost"])
    bucket.faults.choose = lambda _, method, path: next(lost, None) if method == "PUT" else None
    assert place.create(b"mine")
    puts = [path for method, path in bucket.faults.seen if method == "PUT"]
    assert (len(puts), bucket.faults.done) == (2, {"lost": 2})
    assert not place.create(b"another's")
    assert place.read_bytes() == b"mine"


@pytest.mark.parametrize("fault", ["busy", "down"])
def test_faults_that_do_not_pass_are_one_line_after_bounded_attempts(bucket, fault):
    script = "import sys; from stitchsafe.volumes import Place; Place.of(sys.argv[1]).read_bytes()"
    bucket.faults.choose = lambda *_: fault
    done = subprocess.run(
        [sys.executable, "-c", script, f"{bucket.url}/key"],
        capture_output=True, text=True, check=False, env={**os.environ, "STITCHSAFE_RETRIES": "2"},
    )  # fmt: skip
    assert len(bucket.faults.seen) == 3
    last = done.stderr.splitlines()[-1]
    assert "PlaceError" in last
    assert "cannot be reached, after several attempts" in last
    assert ("answers 503" in last) == (fault == "busy")


@pytest.mark.slow
def test_a_server_that_never_answers_is_given_up():
    script = (
        "import sys; from stitchsafe.volumes import Place, _tensorstore; "
        "_tensorstore._STALLED_SECONDS = '1'; Place.of(sys.argv[1]).read_bytes()"
    )
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # connections are accepted by the system, and never by us
        done = subprocess.run(
            [sys.executable, "-c", script, f"http://127.0.0.1:{silent.getsockname()[1]}/key"],
            capture_output=True, text=True, check=False, timeout=100,
            env={**os.environ, "STITCHSAFE_RETRIES": "1"},
        )  # fmt: skip
    assert "cannot be reached, after several attempts" in done.stderr.splitlines()[-1]


def test_what_a_store_forbids_or_lacks_is_said(bucket, monkeypatch):
    with pytest.raises(PlaceError, match="bucket that does not exist"):
        Place.of("s3://no-such-bucket/key").write_bytes(b"")
    (Place.of(bucket.url) / "key").write_bytes(b"")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(PlaceError, match="may not be accessed") as caught:
        (Place.of(bucket.url) / "key").read_bytes()
    assert "\n" not in str(caught.value)


def test_credentials_that_are_absent_are_not_complained_about(bucket, tmp_path):
    """The library behind S3 looks into files that are not there, and says so on stderr."""
    script = (
        "import sys; from stitchsafe.volumes import Place; print(Place.of(sys.argv[1]).exists())"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script, f"{bucket.url}/key"],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("False\n", "")
    del environment["AWS_ACCESS_KEY_ID"]
    done = subprocess.run(
        [sys.executable, "-c", script, f"{bucket.url}/key"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert "common-io" not in done.stderr


@pytest.mark.parametrize("profile", [None, "lab"])
@pytest.mark.parametrize("files", ["both", "credentials", "default names"])
def test_credentials_come_from_the_files_where_other_programs_find_them(
    bucket, tmp_path, profile, files
):
    """Read by a process of its own, since the library behind S3 reads them once."""
    keys = {None: "KEYOFDEFAULT", "lab": "KEYOFLAB"}
    text = "".join(
        f"[{name or 'default'}]\naws_access_key_id = {key}\naws_secret_access_key = secret\n"
        for name, key in keys.items()
    )
    config = "[default]\nregion = us-east-1\n[profile lab]\nregion = us-east-1\n"
    environment = {k: v for k, v in os.environ.items() if k not in CREDENTIALS}
    environment |= {"HOME": str(tmp_path), "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"]}
    folder = tmp_path / ".aws"
    folder.mkdir()
    names = ("credentials", "config")
    if files != "default names":
        names = ("keys.ini", "rest.ini")
        environment["AWS_SHARED_CREDENTIALS_FILE"] = str(folder / names[0])
        environment["AWS_CONFIG_FILE"] = str(folder / names[1])
    (folder / names[0]).write_text(text)
    if files != "credentials":
        (folder / names[1]).write_text(config)
    if profile is not None:
        environment["AWS_PROFILE"] = profile
    script = "import sys; from stitchsafe.volumes import Place; Place.of(sys.argv[1]).exists()"
    command = [sys.executable, "-c", script, f"{bucket.url}/key"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    assert bucket.faults.signed
    assert all(f"Credential={keys[profile]}/" in each for each in bucket.faults.signed)


def test_a_profile_that_there_is_not_is_named(bucket, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "keys").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(PlaceError, match="none are found for the profile 'absent'; check AWS_P"):
        (Place.of(bucket.url) / "key").read_bytes()


def test_archives_and_web_servers_are_only_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/y", "inside")
    (tmp_path / "plain").write_text("outside")
    inside = Place.inside(Place.of(tmp_path / "a.zip"))
    assert inside.listing() == ["x/y"]
    assert (inside / "x/y").read_text() == "inside"
    with web_server(tmp_path) as url:
        served = Place.of(url)
        assert (served / "plain").read_text() == "outside"
        assert not (served / "absent").is_file()
        assert (Place.inside(served / "a.zip") / "x/y").read_text() == "inside"
        with pytest.raises(PlaceError, match="cannot be listed"):
            served.listing()
        for place in (inside / "new", served / "new"):
            for write in (place.write_bytes, place.create, lambda _, p=place: p.remove()):
                with pytest.raises(PlaceError, match="can only be read"):
                    write(b"")


@pytest.mark.parametrize(
    ("text", "name", "parent"),
    [
        ("s3://bucket/a/b.zarr", "b.zarr", "s3://bucket/a"),
        ("s3://bucket/a", "a", "s3://bucket"),
        ("http://host:8000/a%20b/c", "c", "http://host:8000/a b"),
        ("https://host/a", "a", "https://host"),
        ("a/b", "b", "a"),
    ],
)
def test_names_and_what_they_lie_in(text, name, parent):
    place = Place.of(text)
    assert (place.name, str(place.parent)) == (name, parent)
    assert place.parent / name == place
    assert place.parent.holds(place)
    assert not place.holds(place.parent)
    assert not (place / "x").holds(place / "xy")


def test_file_urls_are_paths():
    assert Place.of("file:///a/b%20c") == Place.of("/a/b c")
    with pytest.raises(PlaceSyntaxError, match="three slashes"):
        Place.of("file://a/b")
