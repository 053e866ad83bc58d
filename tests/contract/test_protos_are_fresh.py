"""The generated code beside the protocol is what the protocol says today."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _generate(proto_root: Path, out: Path) -> None:
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, "protos/work.proto"]
    subprocess.run(command, cwd=proto_root, check=True)


def _stale(out: Path) -> list[str]:
    generated = sorted((out / "protos").iterdir())
    assert [path.name for path in generated] == ["work_pb2.py", "work_pb2.pyi", "work_pb2_grpc.py"]
    return [
        path.name for path in generated if path.read_bytes() != (ROOT / "protos" / path.name).read_bytes()
    ]


def test_generating_again_changes_nothing(tmp_path: Path):
    _generate(ROOT, tmp_path)
    assert not _stale(tmp_path), "run `make protos`"


def test_a_changed_protocol_would_be_seen(tmp_path: Path):
    source = tmp_path / "source" / "protos"
    source.mkdir(parents=True)
    changed = (ROOT / "protos" / "work.proto").read_text().replace("uint32 want = 3;", "uint32 want = 33;")
    (source / "work.proto").write_text(changed)
    out = tmp_path / "out"
    out.mkdir()
    _generate(source.parent, out)
    assert "work_pb2.py" in _stale(out)
