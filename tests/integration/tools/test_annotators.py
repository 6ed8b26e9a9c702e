from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from cpcsam.errors import ConfigError
from tools import annotators
from tools.install_locked import cache_settings, pip_settings, uv_settings

METADATA = "Metadata-Version: 2.1\nName: hammer\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock file of one package, whose wheel lies in a local folder."""
    wheel = tmp_path / "wheels/hammer-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("hammer.py", "WEIGHT = 3\n")
        archive.writestr("hammer-1.0.dist-info/METADATA", METADATA)
        archive.writestr("hammer-1.0.dist-info/WHEEL", WHEEL)
        archive.writestr("hammer-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    path = tmp_path / "hammer.lock"
    path.write_text(f"hammer==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return path


def installer(environment: Path) -> str:
    """The program that has installed the package."""
    (file,) = environment.glob("lib/*/site-packages/hammer-1.0.dist-info/INSTALLER")
    return file.read_text().strip()


def test_install_lock_makes_an_environment_until_the_lock_changes(
    lock: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "tools/hammer"
    annotators.install(lock, environment)
    command = [environment / "bin/python", "-c", "import hammer; print(hammer.WEIGHT)"]
    assert subprocess.check_output(command, text=True) == "3\n"
    assert installer(environment) == "uv"
    assert annotators.is_installed(environment, lock)
    lock.write_text("# another\n" + lock.read_text())
    assert not annotators.is_installed(environment, lock)


def test_install_wrong_hash_is_refused_and_not_taken_for_installed(
    lock: Path, tmp_path: Path
) -> None:
    lock.write_text(f"hammer==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(ConfigError, match="got a failure of pip"):
        annotators.install(lock, tmp_path / "hammer")
    assert not annotators.is_installed(tmp_path / "hammer", lock)


def test_install_without_a_uv_that_works_is_done_by_pip(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UV_LINK_MODE", "none-that-uv-knows")
    annotators.install(lock, tmp_path / "hammer")
    assert installer(tmp_path / "hammer") == "pip"
    assert f"uv could not install {lock}; pip tries" in capfd.readouterr().err


def test_uv_settings_are_those_that_hold_for_pip() -> None:
    settings = pip_settings(
        "global.cert='/etc/a.pem'\n"
        "global.extra-index-url='https://a/simple\\nhttps://b/simple'\n"
        "global.index-url='https://user:it%27s@old/simple'\n"
        ":env:.find-links='/wheels /more'\n"
        ":env:.index-url='https://mirror/simple?a=b'\n"
        ":env:.no-color='1'\n"
        "download.cert='/etc/b.pem'\n"
        "install.index-url='https://for-installs/simple'\n"
    )
    assert uv_settings(settings) == {
        "SSL_CERT_FILE": "/etc/a.pem",
        "UV_DEFAULT_INDEX": "https://mirror/simple?a=b",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_INDEX": "https://a/simple https://b/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_cache_from_which_uv_cannot_link_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new/cache"))
    here, elsewhere = tmp_path / "python", Path("/proc/self/exe")
    assert cache_settings(here) == {}
    [(name, folder)] = cache_settings(elsewhere).items()
    assert name == "UV_CACHE_DIR" and folder.endswith(".tools/uv")


def test_main_unknown_name_installs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CPCSAM_TOOLS", str(tmp_path))
    assert annotators.main(["label-studio", "hammer"]) == 2
    assert "name: got 'hammer', expected" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_install_first_run_makes_what_starts_need(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tmp_path / "tools/hammer"
    annotators.install(lock, environment)
    command = ("bin/python", "-c", "import hammer; open('made', 'w').write(str(hammer.WEIGHT))")
    monkeypatch.setitem(annotators.FIRST_RUNS, "hammer", command)
    assert not annotators.is_installed(environment, lock)
    annotators.install(lock, environment)
    assert (environment / "made").read_text() == "3"
    assert annotators.is_installed(environment, lock)


def test_install_first_run_that_fails_is_told_and_not_taken_for_installed(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("bin/python", "-c", "import anvil")
    monkeypatch.setitem(annotators.FIRST_RUNS, "hammer", command)
    log = tmp_path / "hammer/first-run.log"
    with pytest.raises(ConfigError, match=f"bin/python -c: got exit status 1, .*; see {log}"):
        annotators.install(lock, tmp_path / "hammer")
    assert "No module named 'anvil'" in log.read_text()
    assert not annotators.is_installed(tmp_path / "hammer", lock)
