"""``scorebench likelihood`` and ``scorebench encode``, in this process."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import cli, likelihood

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """The program's exit code, output and messages."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["scorebench", *arguments])
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        assert isinstance(code, int)
        return code, out, err

    return run


def test_the_likelihood_of_a_checkpoint(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "CONVERGED", {"method": "dopri5", "rtol": 1e-2, "atol": 1e-2})
    monkeypatch.setattr(likelihood, "BOUND_DRAWS", 2)
    asked = ["likelihood", "digits-vp", "--solver", "heun", "--nfe", "9", "--n", "3", "--probes", "3", "--draws", "1"]
    code, out, _ = call(*asked, "--device", "cpu", "--json")
    values = json.loads(out)
    assert code == 0
    assert (values["nfe"]["value"], values["derivative_passes"]["value"]) == (8, 24)
    assert values["bits_dequantisation_error"]["reason"] == "a single draw or probe"
    assert values["bits_probe_error"]["value"] > 0
    assert values["bits_prior_mismatch"]["error"] > 0
    code, out, _ = call(*asked, "--device", "cpu", "--sketch", "2", "--json")
    assert (code, json.loads(out)["derivative_passes"]["value"]) == (0, 8 * (2 * 2 + 3))
    code, out, _ = call(*asked, "--device", "cpu", "--data", "train")
    assert code == 0
    assert "variational bound, bits per dimension" in " ".join(out.split())
    for change, text in (
        (("--solver", "ancestral"), "likelihood needs an ODE solver; got 'ancestral'"),
        (("--law", "gauss"), "no law 'gauss'; did you mean 'gaussian'"),
        (("--sketch", "65"), "a sketch has at most 64 directions, the dimension; got 65"),
        (("--data", "tset"), "no split 'tset'; did you mean 'test'"),
        (("--n", "600"), "there are 599 images; got 600"),
    ):
        code, _, err = call(*asked, *change)
        assert (code, text in err) == (2, True), err


def test_the_encodings_of_a_checkpoint(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.encoding_figures.BESIDE", ())
    monkeypatch.setattr("bench.encoding_figures.BUDGETS", (2,))
    code, out, _ = call("encode", "digits-vp", "--out", str(tmp_path), "--nfe", "2", "--n", "4", "--device", "cpu")
    assert code == 0
    assert len(out.split()) == 5
    assert (tmp_path / "interpolation.png").is_file()
