"""Pipelines of diffusers: made and saved here, loaded as networks with a process, sampled beside their schedulers."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrained import zoo
from pretrained.importers import diffusers as importer
from pretrained.networks.discrete import Discrete
from pretrained.published import load_published_card
from solvers.brownian import Tape
from solvers.errors import UsageError
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.sde import VE, VP, Cosine
from solvers.solver import integrate

diffusers = pytest.importorskip("diffusers")

LINEAR: dict[str, Any] = {"num_train_timesteps": 1000, "clip_sample": False}
SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": LINEAR,
    "cosine": {**LINEAR, "beta_schedule": "squaredcos_cap_v2"},
    "scaled": {**LINEAR, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "trained": {
        **LINEAR,
        "num_train_timesteps": 100,
        "trained_betas": torch.linspace(1e-3, 0.2, 100).square().tolist(),
    },
    "short": {**LINEAR, "num_train_timesteps": 200, "beta_start": 5e-4, "beta_end": 0.1},
}
PREDICTIONS = ["epsilon", "sample", "v_prediction"]


def unet(**changes: Any) -> Any:
    settings = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "attention_head_dim": 8,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return diffusers.UNet2DModel(**settings | changes).eval().requires_grad_(False)


def saved(folder: Path, scheduler: Any, network: Any = None, **how: Any) -> Path:
    diffusers.DDPMPipeline(network or unet(), scheduler).save_pretrained(folder / "pipeline", **how)
    return folder / "pipeline"


def images(n: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=dtype)


def time_of(network: Discrete, alpha_bar: Tensor) -> Tensor:
    """When the process has a level of the chain."""
    return network.sde.t_of_log_alpha(alpha_bar.double().log() / 2)


def test_linear_betas_are_vp_and_the_cosine_schedule_is_the_cosine_process(tmp_path: Path) -> None:
    found = {}
    for name, settings in SCHEDULES.items():
        found[name] = importer.load(saved(tmp_path / name, diffusers.DDPMScheduler(**settings))).sde
    assert found["linear"] == VP(0.1, 20.0)
    assert found["short"] == VP(0.1, 20.0)
    assert found["cosine"] == Cosine()
    for name in ("scaled", "trained"):
        scheduler = diffusers.DDPMScheduler(**SCHEDULES[name])
        sde = found[name]
        assert isinstance(sde, VP)
        assert sde.beta(0.0) == pytest.approx(len(scheduler.betas) * float(scheduler.betas[0]))
        assert sde.alpha(1.0) ** 2 == pytest.approx(float(scheduler.alphas_cumprod[-1]), rel=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_network_is_called_as_the_pipeline_calls_it(schedule: str, prediction: str, tmp_path: Path) -> None:
    """At the chain's own levels, to the bit, in single precision too."""
    scheduler = diffusers.DDPMScheduler(**SCHEDULES[schedule], prediction_type=prediction)
    model = importer.load(saved(tmp_path, scheduler))
    assert isinstance(model.network, Discrete)
    assert (model.shape, model.centred) == ((3, 8, 8), True)
    assert model.parametrisation == {"epsilon": "noise", "sample": "denoised", "v_prediction": "noise"}[prediction]
    levels = scheduler.alphas_cumprod
    t = time_of(model.network, levels)
    inside = t <= model.sde.t_max
    assert inside.sum() >= 0.98 * len(levels)
    indices = torch.arange(len(levels))[inside]
    assert torch.equal(model.network.index(t[inside].float()), indices.double())
    assert torch.allclose(model.network.index(t[inside]), indices.double(), rtol=0, atol=1e-10)
    x, rows = images(), torch.tensor([0, 7, len(indices) // 2, len(indices) - 1])
    theirs, ours = unet()(x, indices[rows]).sample, model.network(x, t[rows].float())
    if prediction == "v_prediction":
        level = levels[rows].double()[:, None, None, None]
        assert torch.allclose(ours.double(), (1 - level).sqrt() * x + level.sqrt() * theirs, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(ours, theirs)


def test_between_and_beyond_the_levels(tmp_path: Path) -> None:
    network = importer.load(saved(tmp_path, diffusers.DDPMScheduler(**LINEAR))).network
    assert isinstance(network, Discrete)
    levels = diffusers.DDPMScheduler(**LINEAR).alphas_cumprod.double()
    between = (levels[400] ** 0.75 * levels[401] ** 0.25)[None]
    assert network.index(time_of(network, between)).item() == pytest.approx(400.25, abs=1e-6)
    ends = network.index(torch.tensor([1e-5, 1.0, 3.0], dtype=torch.float64))
    assert ends[0] == 0
    assert 995 < ends[1] < 999
    assert ends[2] == 999


def ours_beside_theirs(model: Any, scheduler: Any, solver: str, steps: int, **step: Any) -> tuple[Tensor, Tensor]:
    """Samples of our solver and of their scheduler on its own levels, from the same start and noise."""
    x = start = images(2, torch.float64)
    noise = torch.randn(steps, *x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    network = unet().double()
    scheduler.set_timesteps(steps)
    draws = iter(noise)
    for timestep in scheduler.timesteps:
        more = {"variance_noise": next(draws)} if step.get("eta") else {}
        if solver == "ancestral" and timestep > 0:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: next(draws))
                x = scheduler.step(network(x, timestep).sample, timestep, x).prev_sample
        else:
            x = scheduler.step(network(x, timestep).sample, timestep, x, **step, **more).prev_sample
    process = ReverseProcess(model.sde, model.network.double(), model.parametrisation)
    ts = time_of(model.network, scheduler.alphas_cumprod[scheduler.timesteps])
    ours = integrate(get_solver(solver, **step), process, start, ts, Tape(noise), "tweedie")
    assert process.evaluations.calls == steps
    return ours, x


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", ["linear", "cosine", "trained"])
def test_ddim_and_ancestral_draw_the_samples_of_the_schedulers(schedule: str, prediction: str, tmp_path: Path) -> None:
    """On the scheduler's own levels, which are in single precision; the last step leads to t = 0."""
    settings = SCHEDULES[schedule] | {"prediction_type": prediction}
    ddpm = diffusers.DDPMScheduler(**settings)
    model = importer.load(saved(tmp_path, ddpm))
    ddim = diffusers.DDIMScheduler(**settings)
    steps = 10
    for solver, scheduler, step in (("ddim", ddim, {}), ("ddim", ddim, {"eta": 0.5}), ("ancestral", ddpm, {})):
        ours, theirs = ours_beside_theirs(model, scheduler, solver, steps, **step)
        assert ((ours - theirs).abs() / (1 + theirs.abs())).max() < 2e-5, (solver, step)
        assert theirs.std() > 0.1


def test_score_sde_ve_is_told_sigma_and_gives_the_score(tmp_path: Path) -> None:
    network = unet(time_embedding_type="fourier")
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0)
    diffusers.ScoreSdeVePipeline(network, scheduler).save_pretrained(tmp_path / "pipeline")
    model = importer.load(tmp_path / "pipeline")
    assert model.sde == VE(0.01, 50.0)
    assert (model.parametrisation, model.centred) == ("score", False)
    scheduler.set_timesteps(1000)
    scheduler.set_sigmas(1000)
    x, i = images(), 300
    sigma = scheduler.sigmas[i]
    theirs = network(x, sigma * torch.ones(len(x))).sample
    assert torch.allclose(model.network(x, scheduler.timesteps[i].expand(len(x))), theirs, rtol=1e-4, atol=1e-6)
    assert sigma == pytest.approx(model.sde.sigma(float(scheduler.timesteps[i])), rel=1e-5)


def test_of_noise_and_variance_the_noise_is_taken(tmp_path: Path) -> None:
    network = unet(out_channels=6)
    model = importer.load(saved(tmp_path, diffusers.DDPMScheduler(**LINEAR, variance_type="learned_range"), network))
    x = images()
    assert isinstance(model.network, Discrete)
    t = time_of(model.network, diffusers.DDPMScheduler().alphas_cumprod[[10, 20, 30, 40]])
    assert torch.equal(model.network(x, t.float()), network(x, torch.tensor([10, 20, 30, 40])).sample[:, :3])


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path, diffusers.DDPMScheduler(**LINEAR))
    before = torch.get_rng_state()
    importer.load(folder)
    assert torch.equal(torch.get_rng_state(), before)


# Where pipelines come from.


def test_the_zoo_loads_a_folder_and_an_old_flat_one(tmp_path: Path) -> None:
    folder = saved(tmp_path, diffusers.DDPMScheduler(**LINEAR))
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (*folder.glob("*/*"), folder / "model_index.json"):
        shutil.copy(path, flat)
    x, t = images(1), torch.tensor([0.4])
    found = [zoo.load(str(path)) for path in (folder, flat)]
    assert torch.equal(found[0].network(x, t), found[1].network(x, t))
    assert found[0].sha256 == found[1].sha256
    checkpoint = found[0]
    assert (checkpoint.shape, checkpoint.levels, checkpoint.parametrisation) == ((3, 8, 8), 256, "noise")
    assert (checkpoint.card.data.scale, checkpoint.card.data.offset) == (2.0, -1.0)
    assert checkpoint.card.parameters == sum(p.numel() for p in unet().parameters())


def test_a_name_of_the_hub_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the two forms of the weights the safe one is asked for first."""
    import huggingface_hub

    folder = saved(tmp_path, diffusers.DDPMScheduler(**LINEAR), safe_serialization=False)
    asked: list[tuple[str, list[str]]] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert zoo.load("hf:google/ddpm-cifar10-32").sde == VP()
    assert [name for name, _ in asked] == ["google/ddpm-cifar10-32"] * 2
    assert [patterns[-1] for _, patterns in asked] == [f"*{name}" for name in importer.WEIGHTS]


def test_a_name_of_the_hub_without_a_network_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        zoo.load("hf:google/ddpm-cifar10-32")
    text = str(caught.value)
    assert text.startswith("load hf:google/ddpm-cifar10-32: its files are neither in the cache nor within reach; got ")
    assert text.endswith("Connect and load it once, or give the path of a folder that holds it")
    with pytest.raises(UsageError, match="neither in the cache nor within reach"):
        zoo.load("hf:no/such/name")


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path, diffusers.DDPMScheduler(**LINEAR))
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(UsageError, match=r"diffusers is not installed.*scorebench\[peers\]"):
        importer.load(folder)


def test_the_card_counts_what_the_pipeline_of_ddpm_holds() -> None:
    """Its configuration as far as it counts: Ho et al. 2020, app. B, 35.7 million weights."""
    more = {"block_out_channels": (128, 256, 256, 256), "layers_per_block": 2, "norm_num_groups": 32}
    down, up = ["DownBlock2D"] * 4, ["UpBlock2D"] * 4
    down[1], up[2] = "AttnDownBlock2D", "AttnUpBlock2D"
    with torch.device("meta"):
        network = diffusers.UNet2DModel(
            sample_size=32, down_block_types=down, up_block_types=up, attention_head_dim=None, **more
        )
    count = sum(p.numel() for p in network.parameters())
    assert load_published_card("cifar10-ddpm").parameters == count


# What is refused.


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "changes", "text"),
    [
        ("model_index.json", {"unet": ["diffusers", "UNet2DConditionModel"]}, "is a UNet2DModel and its scheduler"),
        ("model_index.json", {"vqvae": ["diffusers", "VQModel"]}, "is a UNet2DModel and its scheduler"),
        ("scheduler/scheduler_config.json", {"_class_name": "DDIMSheduler"}, "did you mean 'DDIMScheduler'"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "no prediction_type 'flow'. Known: epsilon"),
        (
            "scheduler/scheduler_config.json",
            {"rescale_betas_zero_snr": True},
            "alpha_bar falls from below 1 to above 0",
        ),
        ("unet/config.json", {"sample_size": None}, "tells its sample_size"),
        ("unet/config.json", {"layers_per_block": 2}, "those of its configuration; got"),
        ("unet/config.json", {"num_class_embeds": 10}, "its weights are|an unconditional network"),
        ("unet/config.json", {"block_out_channels": [8, 32]}, "its weights are"),
    ],
)
def test_what_is_not_read_here_says_so(file: str, changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, diffusers.DDPMScheduler(**LINEAR))
    edit(folder / file, **changes)
    with pytest.raises(UsageError, match=text):
        importer.load(folder)


def test_networks_with_classes_or_other_features_are_refused(tmp_path: Path) -> None:
    for name, network, text in (
        ("classes", unet(num_class_embeds=10), "an unconditional network is read; got 'num_class_embeds 10'"),
        ("channels", unet(out_channels=5), r"as many channels out as in, .*got \(3, 5\)"),
        ("fourier", unet(time_embedding_type="fourier"), "told them by position; got 'fourier'"),
    ):
        with pytest.raises(UsageError, match=text):
            importer.load(saved(tmp_path / name, diffusers.DDPMScheduler(**LINEAR), network))


@pytest.mark.parametrize("file", ["model_index.json", "scheduler/scheduler_config.json"])
def test_files_that_are_missing_or_damaged_are_told(file: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, diffusers.DDPMScheduler(**LINEAR))
    for content, text in (("{", "is JSON"), ("[]", "is a JSON object"), (None, f"holds {Path(file).name}")):
        if content is None:
            (folder / file).unlink()
        else:
            (folder / file).write_text(content)
        with pytest.raises(UsageError, match=text):
            importer.load(folder)


def test_weights_that_are_missing_or_damaged_are_told(tmp_path: Path) -> None:
    folder = saved(tmp_path, diffusers.DDPMScheduler(**LINEAR))
    weights = folder / "unet" / importer.WEIGHTS[0]
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UsageError, match="its weights are tensors, and those of its configuration"):
        importer.load(folder)
    weights.unlink()
    with pytest.raises(UsageError, match=r"a pipeline's folder holds diffusion_pytorch_model\.safetensors"):
        importer.load(folder)


class Code:
    """A pickle that would write a file where it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_among_the_weights_is_refused_and_does_not_run(tmp_path: Path) -> None:
    folder = saved(tmp_path, diffusers.DDPMScheduler(**LINEAR), safe_serialization=False)
    torch.save({"conv_in.weight": Code(tmp_path / "trap")}, folder / "unet" / importer.WEIGHTS[1])
    with pytest.raises(UsageError, match="its weights are tensors"):
        importer.load(folder)
    assert not (tmp_path / "trap").exists()
