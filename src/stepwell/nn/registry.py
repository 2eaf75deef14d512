"""Models by name, for recipes and the command line."""

from __future__ import annotations

from torch import nn

from stepwell.core.registry import Registry

models: Registry[type[nn.Module]] = Registry("model")
"""Each is built as `models[name](num_nodes, event_dim, node_dim)` and has `score`, `embed`, `observe`, `forget`,
`snapshot`, `restore`, and what it wants of its batches: `hops`, `k`, `keyed_by`."""
