"""The layers and models of PyTorch Geometric, with small sizes by the names of their arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch_geometric
from torch import nn
from torch_geometric import nn as geometric

from benchmarks.sources import Candidate, Source

PARTS = ("conv", "aggr", "norm", "dense", "pool", "unpool", "attention", "kge", "models", "encoding")
KINDS, EDGES = ["author", "paper"], [("author", "writes", "paper"), ("paper", "cites", "paper")]


def network(features: int = 8, out: int = 8) -> nn.Module:
    """A network that a layer is given."""
    return nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Linear(16, out))


#: a value for each argument without a default
VALUES: Mapping[str, Callable[[], Any]] = {
    **dict.fromkeys(("in_channels", "out_channels", "hidden_channels", "channels", "embedding_dim"), lambda: 8),
    **dict.fromkeys(("input_dim", "hidden_dim", "output_dim", "hidden_node_channels", "edge_dim"), lambda: 8),
    **dict.fromkeys(("dim_emb", "dim_pe_in", "dim_pe_out", "edge_type_emb_dim", "edge_attr_emb_dim"), lambda: 8),
    **dict.fromkeys(("memory_dim", "time_dim", "raw_msg_dim", "int_emb_size", "basis_emb_size"), lambda: 8),
    "hidden_edge_channels": lambda: 8,
    **dict.fromkeys(("out_emb_channels", "num_bilinear", "space_dimensions", "propagate_dimensions"), lambda: 8),
    **dict.fromkeys(("num_layers", "num_blocks", "depth", "processing_steps", "num_timesteps", "K"), lambda: 2),
    **dict.fromkeys(("heads", "num_heads", "groups", "num_clusters", "num_types", "filter_size", "dim"), lambda: 2),
    **dict.fromkeys(("num_node_types", "num_edge_types", "num_relations", "num_classes", "num_rels", "k"), lambda: 3),
    **dict.fromkeys(("kernel_size", "patch_size", "seq_len", "num_spherical", "num_radial"), lambda: 4),
    **dict.fromkeys(("num_correction_layers", "num_smoothing_layers", "num_cells", "num_cells_to_visit"), lambda: 2),
    **dict.fromkeys(("alpha", "correction_alpha", "smoothing_alpha", "q"), lambda: 0.5),
    **dict.fromkeys(("nn", "mlp_f", "encoder", "discriminator", "gate_nn"), lambda: network()),
    "num_nodes": lambda: 10, "max_num_elements": lambda: 5, "bits_per_vector": lambda: 8, "walk_length": lambda: 4,
    "context_size": lambda: 2, "first_aggr": lambda: True, "mode": lambda: "lstm", "aggr": lambda: "mean",
    "aggregators": lambda: ["mean", "max"], "scalers": lambda: ["identity", "amplification"],
    "scaler": lambda: "linear", "deg": lambda: torch.tensor([0, 3, 2, 1]), "types": lambda: KINDS,
    "metadata": lambda: (KINDS, EDGES), "conv": lambda: geometric.GCNConv(8, 8),
    "convs": lambda: {edge: geometric.SAGEConv(8, 8) for edge in EDGES},
    "aggrs": lambda: ["mean", "lstm"], "mlp_h": lambda: network(8, 3), "mlp_g": lambda: network(),
    "summary": lambda: torch.mean, "corruption": lambda: torch.flip,
    "edge_index": lambda: torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]), "metapath": lambda: [EDGES[1]],
    "edge_index_dict": lambda: {EDGES[1]: torch.tensor([[0, 1, 2], [1, 2, 0]])},
    "message_module": lambda: geometric.models.tgn.IdentityMessage(8, 8, 8),
    "aggregator_module": lambda: geometric.models.tgn.LastAggregator(),
}  # fmt: skip

#: where the name of an argument means something else, and arguments that are needed although they have a default
OTHERS: Mapping[str, dict[str, Callable[[], Any]]] = {
    "DimeNet": {"out_channels": lambda: 1},
    "EquilibriumAggregation": {"num_layers": lambda: [8]},
    "FusedGATConv": {"in_channels": lambda: 8, "out_channels": lambda: 8, "add_self_loops": lambda: False},
    "GMMConv": {"kernel_size": lambda: 3},
    "GPSENodeEncoder": {"dim_emb": lambda: 16},
    "GroupAddRev": {"num_groups": lambda: 2},
    "HeteroDictLinear": {"types": lambda: KINDS},
    "HeteroJumpingKnowledge": {"channels": lambda: 8, "num_layers": lambda: 2},
    "JumpingKnowledge": {"channels": lambda: 8, "num_layers": lambda: 2},
    "MLP": {"channel_list": lambda: [8, 16, 8]},
    "MLPAggregation": {"num_layers": lambda: 1},
    "MetaPath2Vec": {"num_nodes_dict": lambda: {"paper": 3, "author": 3}},
    "MultiAggregation": {"aggrs": lambda: [geometric.aggr.SoftmaxAggregation(learn=True), "mean"]},
    "NNConv": {"nn": lambda: network(8, 64)},
    "ECConv": {"nn": lambda: network(8, 64)},
    "PNA": {
        "aggregators": lambda: ["mean", "max"], "scalers": lambda: ["identity", "amplification"],
        "deg": lambda: torch.tensor([0, 3, 2, 1]),
    },
    "XConv": {"kernel_size": lambda: 3},
}  # fmt: skip

#: values of arguments that have a default, as further constructions
MORE: Mapping[str, tuple[str, dict[str, Any]]] = {
    "GATConv with edges": ("GATConv", {"heads": 4, "edge_dim": 6, "residual": True}),
    "GATv2Conv with edges": ("GATv2Conv", {"heads": 4, "edge_dim": 6, "share_weights": True}),
    "SAGEConv with lstm": ("SAGEConv", {"aggr": "lstm", "project": True}),
    "SAGEConv lazy": ("SAGEConv", {"in_channels": -1}),
    "GCNConv lazy": ("GCNConv", {"in_channels": -1}),
    "RGCNConv by bases": ("RGCNConv", {"num_bases": 2}),
    "RGCNConv by blocks": ("RGCNConv", {"num_blocks": 4}),
    "TransformerConv with edges": ("TransformerConv", {"heads": 2, "edge_dim": 6, "beta": True}),
    "Linear glorot": ("Linear", {"weight_initializer": "glorot", "bias_initializer": "zeros"}),
    "Linear kaiming": ("Linear", {"weight_initializer": "kaiming_uniform"}),
    "GAT with heads": ("GAT", {"heads": 4, "v2": True, "jk": "lstm", "norm": "batch_norm"}),
}


def classes() -> dict[str, type]:
    """All classes of modules, by their names."""
    found = {}
    for part in PARTS:
        package = getattr(geometric, part)
        for name in getattr(package, "__all__", ()):
            cls = getattr(package, name)
            if inspect.isclass(cls) and issubclass(cls, nn.Module) and not inspect.isabstract(cls):
                found[name] = cls
    return found


def candidates(name: str) -> Iterator[Candidate]:
    """One construction; the networks and tensors that it is given are made anew each time."""
    class_name, more = MORE.get(name, (name, {}))
    cls = classes()[class_name]
    others = OTHERS.get(class_name, {})
    parameters = list(inspect.signature(cls.__init__).parameters.items())[1:]
    needed = [k for k, p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if unknown := [key for key in needed if key not in more and key not in others and key not in VALUES]:
        raise LookupError(f"no value for {', '.join(unknown)}")

    def build() -> nn.Module:
        made = {key: others.get(key, VALUES.get(key)) for key in dict.fromkeys([*needed, *others])}
        return cls(**{**{key: make() for key, make in made.items() if make is not None}, **more})

    yield class_name, build


SOURCE = Source(
    title="PyTorch Geometric",
    what=f"Every layer and model of torch_geometric.nn {torch_geometric.__version__}, with small sizes",
    noun="class",
    names=lambda: [*classes(), *MORE],
    candidates=candidates,
    limits="pyg-lib, torch-cluster, torch-sparse and the other compiled extensions are not installed.",
)
