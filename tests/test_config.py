import dataclasses
import importlib
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from sae_lens import BatchTopKTrainingSAEConfig
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY, get_sae_training_class
from sae_lens.saes.sae import TrainingSAEConfig

import sae_lens_meta
from sae_lens_meta import MetaTrainingSAE, MetaTrainingSAEConfig, register
from tests.helpers import meta_config


def test_defaults_are_those_of_the_paper_but_for_the_meta_lr() -> None:
    cfg = MetaTrainingSAEConfig(d_in=1280, d_sae=20480)
    assert cfg.meta_width == 1843  # 9 %
    assert (cfg.meta_k, cfg.meta_lr) == (8, 3e-3)
    assert (cfg.meta_adam_beta1, cfg.meta_adam_beta2) == (0.9, 0.99)
    assert cfg.decomposability_coefficient == 0.3
    assert cfg.decomposability_bandwidth == 1.0
    assert cfg.decomposability_warm_up_steps == 0
    assert (cfg.primary_steps_per_cycle, cfg.meta_steps_per_cycle) == (10, 5)
    assert cfg.normalize_activations == "layer_norm"
    assert cfg.aux_loss_coefficient == 1 / 32


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("meta_d_sae", 64),
        ("meta_d_sae", 0),
        ("meta_k", 13),
        ("meta_k", 0),
        ("meta_k", 0.015),  # of 64 rows less than one latent
        ("k", 0),
        ("k", 65),
        ("decomposability_coefficient", -0.1),
        ("decomposability_coefficient", float("nan")),
        ("decomposability_warm_up_steps", -1),
        ("decomposability_bandwidth", 0),
        ("primary_steps_per_cycle", 0),
        ("meta_steps_per_cycle", 0),
        ("meta_lr", 0),
        ("meta_adam_beta2", 1.0),
        ("decomposability_coefficient", float("inf")),
        ("decomposability_bandwidth", float("inf")),
        ("meta_lr", float("inf")),
        ("meta_d_sae", 12.5),
        ("meta_steps_per_cycle", 2.5),
        ("primary_steps_per_cycle", 2.0),
        ("decoder_init_norm", 0),
        ("aux_loss_coefficient", -1),
        ("normalize_activations", "covariance_whitening"),
        ("normalize_activations", "constant_norm_rescale"),
        ("normalize_activations", "batch_norm"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_field(
    field: str, value: object
) -> None:
    with pytest.raises(ValueError, match=f"{field} must be .*got {value}"):
        meta_config(**{field: value})


def test_meta_width_follows_d_sae_unless_it_is_set() -> None:
    assert meta_config(d_sae=2000, meta_d_sae=None).meta_width == 180
    assert meta_config(d_sae=2000, meta_d_sae=7).meta_width == 7


def test_config_survives_the_dictionary_that_saelens_saves() -> None:
    cfg = meta_config(decomposability_bandwidth=3.0, meta_d_sae=None, d_sae=200)
    loaded = TrainingSAEConfig.from_dict(cfg.to_dict())
    assert isinstance(loaded, MetaTrainingSAEConfig)
    assert loaded.to_dict() == cfg.to_dict()
    details = loaded.to_dict()["metadata"]["training_architecture_details"]
    assert details["decomposability_bandwidth"] == 3.0
    assert details["meta_d_sae"] == 18


def test_a_control_made_with_replace_has_metadata_of_its_own() -> None:
    joint = meta_config()
    solo = dataclasses.replace(joint, decomposability_coefficient=0)
    assert solo.metadata is not joint.metadata
    solo.metadata.l0 = 2.0
    assert joint.metadata.l0 is None


def test_registration_is_idempotent_and_survives_a_reload() -> None:
    register()
    importlib.reload(sae_lens_meta)
    assert get_sae_training_class("meta") == (MetaTrainingSAE, MetaTrainingSAEConfig)


def test_reloaded_modules_replace_the_registered_classes() -> None:
    import sae_lens_meta.training.joint as training_sae
    import sae_lens_meta.training.registration as registration

    try:
        importlib.reload(training_sae)
        importlib.reload(registration).register()
        assert get_sae_training_class("meta")[0] is training_sae.MetaTrainingSAE
    finally:
        SAE_TRAINING_CLASS_REGISTRY["meta"] = (MetaTrainingSAE, MetaTrainingSAEConfig)
        training_sae.MetaTrainingSAE = MetaTrainingSAE
        training_sae.MetaTrainingSAEConfig = MetaTrainingSAEConfig
        importlib.reload(registration)


def test_a_foreign_architecture_named_meta_is_not_overwritten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sae_lens import BatchTopKTrainingSAE

    foreign = (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig)
    monkeypatch.setitem(SAE_TRAINING_CLASS_REGISTRY, "meta", foreign)
    with pytest.raises(ValueError, match="already has a training architecture 'meta'"):
        register()
    assert SAE_TRAINING_CLASS_REGISTRY["meta"] == foreign


def _registered_in_worker(pickled: bytes) -> str:
    cfg = pickle.loads(pickled)
    return get_sae_training_class(cfg.architecture())[0].__name__


@pytest.mark.slow
def test_a_config_sent_to_a_fresh_process_brings_the_registration_along() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        name = pool.submit(_registered_in_worker, pickle.dumps(meta_config())).result()
    assert name == "MetaTrainingSAE"
