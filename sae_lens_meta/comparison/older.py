"""A comparison.json of an earlier format, brought to today's."""

from typing import Any

# figures went by their labels
_IDS_OF_4 = {
    "corrected mean |phi|": "corrected_mean_abs_phi",
    "mean |phi|": "mean_abs_phi",
    "  of it by chance": "mean_abs_phi_by_chance",
    "corrected mean |phi| at equal firing rates": "corrected_mean_abs_phi_at_equal_firing_rates",
    "latents compared": "latents_compared",
    "mean |phi|, all latents that fire": "mean_abs_phi_all_latents_that_fire",
    "normalised L2": "normalised_l2",
    "explained variance": "explained_variance",
    "L0": "l0",
    "latents that never fire": "latents_that_never_fire",
    "CE overhead, percent": "ce_overhead_percent",
    "CE loss recovered": "ce_loss_recovered",
    "KL divergence, nats": "kl_divergence_nats",
    "mean |cosine| of decoder rows": "mean_abs_cosine_of_decoder_rows",
    "mean nearest cosine": "mean_nearest_cosine",
    "effective rank of the decoder": "effective_rank_of_the_decoder",
    "meta SAE of width 0.09 explains": "meta_sae_of_width_0_09_explains",
    "meta SAE of width 0.25 explains": "meta_sae_of_width_0_25_explains",
}


def upgraded(plain: dict[str, Any]) -> dict[str, Any]:
    """
    What stands in a comparison.json, in the newest format; of an unknown one, as it is.

    In format 4 SAEs had roles, figures went by their labels, and a judge's scores stood by
    themselves.
    """
    if not isinstance(plain, dict) or plain.get("format") != 4:
        return plain
    saes = [_sae(sae) for sae in plain["saes"]]
    groups = {sae["group"] for sae in saes}
    counts = plain.get("split_counts")
    judged = plain.pop("autointerp", None)
    objections = plain.pop("repeated_trainings", [])
    differences = [
        {**one, "figure": _IDS_OF_4[one["figure"]]} for one in plain["differences"]
    ]
    return {
        **plain,
        "format": 5,
        "baseline": "solo",
        "control": "solo_equal_l2" if "solo_equal_l2" in groups else None,
        "saes": saes,
        "differences": differences,
        "objections": objections,
        "split_counts": counts and _split_counts(counts),
        "extras": {"autointerp": _scores(judged, saes)} if judged else {},
    }


def _sae(sae: dict[str, Any]) -> dict[str, Any]:
    sae = dict(sae)
    intervals = sae["intervals"].items()
    intervals = {_IDS_OF_4[label]: interval for label, interval in intervals}
    return {**sae, "group": sae.pop("role"), "intervals": intervals}


def _split_counts(counts: dict[str, Any]) -> dict[str, Any]:
    return {
        "min_score": counts["min_score"],
        "n_latents": counts["n_latents"],
        "baseline": "solo",
        "group": "joint",
        "n_split": counts["joint"],
        "n_split_by_seed": counts["second_solo"],
    }


def _scores(judged: dict[str, Any], saes: list[dict[str, Any]]) -> dict[str, Any]:
    weights = {sae["name"]: sae["weights_sha256"] for sae in saes}
    return {
        "called": f"the scores of the judge {judged['judge']!r}",
        "weights": {n: weights[n] for n in judged["means"] if n in weights},
        "data": judged,
    }
