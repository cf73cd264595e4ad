"""Features of a sparse autoencoder: interchange of some features of the hidden state, the rest of it kept.

    f(h) = a((h - c) W_enc + b_enc)                  a(x) = x where x > max(threshold, 0), else 0
    mixed = base + ((f(source) - f(base)) * m) W_dec

m is 1 at the chosen features and 0 elsewhere. This is "encode, swap, decode, and keep the base's reconstruction error":
the decoder is linear, so its bias, the features that are not swapped and the error cancel. For each variable the `k`
features that tell its classes best apart are chosen, as the sparse probe ranks neurons; k = 0 takes all of them over.
`features` names them by number instead, for all variables.

Unit: IIA, the share of pairs; `subspace_dim` counts the features. Control of its own: the same features of a randomly
rotated hidden state. It shows what these features carry, and not what is missing in the autoencoder: a low IIA may be
its error's fault, in which the base's value stays.

Source: Mueller et al., "MIB: A Mechanistic Interpretability Benchmark", 2025, appendix (SAE features as a featurizer);
Bloom et al., SAELens; Lieberum et al., "Gemma Scope", 2024 (JumpReLU). The files are read by `workers.data.sae_file`.

Shapes, by suffix: N training prompts, D width of the site, F features of the autoencoder, K those that are swapped, V
variables.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.data.sae_file import SaeError, digest_of, files_of, read_sae
from workers.methods.activations import fit_on_activations
from workers.methods.alignment import CellFacts, Column, FeatureAlignment
from workers.methods.base import FitContext, NotApplicable
from workers.methods.classes import classes_of
from workers.methods.settings import why_not
from workers.methods.sparse_probe import best_neurons


def features_of(context: FitContext, width: int) -> FeatureAlignment:
    """All features of the sweep's autoencoder, as those of one cell of this width; its mask lets nothing through.

    Raises: NotApplicable for another width; SaeError where the file is not the one that was planned.
    """
    settings = context.settings
    if why := why_not(settings, width=width, n_variables=context.n_variables):
        raise NotApplicable(why)
    assert context.folder is not None
    path = context.folder.autoencoder(settings["sha256"])
    found = digest_of(files_of(path))
    if found != settings["sha256"]:
        raise SaeError(f"{path}: has changed since the sweep was planned ({found[:12]}, {settings['sha256'][:12]})")
    sae, device = read_sae(path), context.device
    return FeatureAlignment(
        encoder_CDF=torch.from_numpy(sae.encoder_DF).to(device)[None],
        bias_CF=torch.from_numpy(sae.bias_F).to(device)[None],
        threshold_CF=torch.from_numpy(sae.threshold_F).to(device)[None],
        centre_CD=torch.from_numpy(sae.centre_D).to(device)[None],
        decoder_CFD=torch.from_numpy(sae.decoder_FD).to(device)[None],
        mask_CVF=torch.zeros(1, context.n_variables, sae.n_features, device=device),
    )


def fit(context: FitContext) -> list[Column]:
    """The cohort's cells from one pass over the training prompts. Raises: Interrupted, NotApplicable, SaeError."""
    every = features_of(context, max(group.width for group in context.groups))
    k, named, n_features = context.settings["k"], context.settings["features"], every.bias_CF.shape[1]
    if named or not k or k >= n_features:
        chosen = torch.tensor(named or range(n_features), device=context.device)
        return fit_on_activations(context, lambda _hidden_ND: _some(every, [chosen] * context.n_variables))
    classes = classes_of(context)

    def fit_cell(hidden_ND: Tensor) -> tuple[FeatureAlignment, CellFacts]:
        features_NF = every.features(hidden_ND[None])[0]
        chosen = [best_neurons(features_NF[member_N], classes.above_N[member_N], k) for member_N in classes.member_VN]
        return _some(every, chosen)

    return fit_on_activations(context, fit_cell)


def _some(every: FeatureAlignment, chosen: list[Tensor]) -> tuple[FeatureAlignment, CellFacts]:
    """The features chosen for each variable: all variables' side by side, each variable's mask over its own."""
    picked_K = torch.cat(chosen)
    owner_K = torch.arange(len(chosen), device=picked_K.device).repeat_interleave(len(chosen[0]))
    mask_VK = (owner_K == torch.arange(len(chosen), device=picked_K.device)[:, None]).float()
    some = FeatureAlignment(
        encoder_CDF=every.encoder_CDF[:, :, picked_K],
        bias_CF=every.bias_CF[:, picked_K],
        threshold_CF=every.threshold_CF[:, picked_K],
        centre_CD=every.centre_CD.clone(),
        decoder_CFD=every.decoder_CFD[:, picked_K],
        mask_CVF=mask_VK[None],
    )
    return some, CellFacts(subspace_dim=len(picked_K.unique()))
