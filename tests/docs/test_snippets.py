"""Every snippet of README and the how-tos, run as printed against a server of the default model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
PRINTED = "http://127.0.0.1:8000"
# frameworks that would rather look something up on the internet when they are loaded
ALONE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HAYSTACK_TELEMETRY_ENABLED": "False"}
FRAMEWORKS = Path(sys.prefix) / "frameworks" / "bin" / "python"  # scripts/setup dev makes it


def snippets():
    for page in PAGES:
        for match in FENCE.finditer(page.read_text()):
            line = page.read_text()[: match.start()].count("\n") + 1
            yield pytest.param(match[1], match[2], id=f"{page.relative_to(ROOT)}:{line}")


def interpreter(request: pytest.FixtureRequest) -> str:
    """Frameworks live in an environment of their own."""
    return str(FRAMEWORKS) if "frameworks.md" in request.node.name else sys.executable


@pytest.mark.parametrize("language, text", list(snippets()))
def test_snippet_runs_as_printed(language, text, server, tmp_path, request):
    text = text.replace(PRINTED, server.url)
    if text.startswith("make serve"):
        # These two start this very test; that they exist is what can be checked from inside.
        targets = (ROOT / "Makefile").read_text()
        assert all(f"\n{line.split()[1]}:" in targets for line in text.splitlines())
        return
    assert language in {"sh", "python"}
    tools = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", **ALONE}
    if language == "sh":
        text = text.replace("octavo chat", f"octavo chat --url {server.url}/v1")
    python = [interpreter(request), "-c", text]
    command = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else python
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "a snippet that shows nothing teaches nothing"
    if "capital of France" in text and "temperature" in text:
        assert "Paris" in done.stdout
