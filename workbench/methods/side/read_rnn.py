"""READ: a small recurrent network runs over the layers of a frozen model and corrects its last hidden state.

    x_i = LN(phi_i)    s_i = RNN(x_i, s_{i-1}), s_0 = 0    i = 1 .. N over the blocks, every token by itself
    out = phi_N + c (W_o a + b_o)    a = mean_i s_i (or s_N),  W_o: (d, k) = 0,  b_o = 0
    phi_i: (d,) output of block i, without gradient;  RNN weights ~ U(-1/sqrt(k), 1/sqrt(k));  LN: (d,) = 1, no shift

The cell is shared by all layers, so its size does not depend on their number. No gradient enters the base, so its
activations need not be kept, and block outputs can be cached between epochs. `depths` chooses the blocks that are read.

Parameters per model: g (d k + k^2 + 2 k) + k d + d, + d with layer_norm; g = 3 (gru), 4 (lstm), 1 (rnn).

Deviates from the paper: the output projection starts at zero, so that the start is exactly the base; encoder-decoder
joiners are not built: the input of the cell is the block output alone.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.contract import Context, SidePart

CELLS = {"gru": (nn.GRU, 3), "lstm": (nn.LSTM, 4), "rnn": (nn.RNN, 1)}
"""Name -> (class, number of gates)."""


class ReadRNNConfig(Placement):
    """Options of READ."""

    hidden: int = Field(256, ge=1, le=8192, description="Width k of the recurrent state.")
    cell: Literal["gru", "lstm", "rnn"] = Field("gru", description="Kind of recurrent cell that runs over the layers.")
    aggregate: Literal["mean", "last"] = Field(
        "mean", description="What is read out: the mean over the layers, or the last state."
    )
    layer_norm: bool = Field(True, description="Normalise the block outputs before the cell.")
    output_scale: float = Field(1.0, gt=0, le=1000, description="Factor c on the correction.")


class ReadRNN(SidePart):
    """See the module's docstring."""

    Config, tiny = ReadRNNConfig, ReadRNNConfig(hidden=8)
    paper = Paper("Wang et al., 2023", "https://arxiv.org/abs/2305.15348", 84)
    default_lr = (3e-3, "better than 1e-3 on bundled/minilm (validation, 78 steps); the paper's rates were not found")

    def __init__(self, cfg: ReadRNNConfig, reads: list[Site], site: Site, shared: None, gen: torch.Generator) -> None:
        super().__init__(cfg, reads, site, shared, gen)
        chosen = cfg.block_numbers(len(reads))
        self.layers = [i for i, tap in enumerate(reads) if tap.depth in chosen]
        with torch.random.fork_rng(devices=[]):  # torch draws the cell's first values from the global generator
            self.rnn = CELLS[cfg.cell][0](site.d_out, cfg.hidden)
        for tensor in self.rnn.parameters():
            nn.init.uniform_(tensor, -(cfg.hidden**-0.5), cfg.hidden**-0.5, generator=gen)
        self.norm = nn.LayerNorm(site.d_out, bias=False) if cfg.layer_norm else None
        self.W_o = nn.Parameter(torch.zeros(site.d_out, cfg.hidden))
        self.b_o = nn.Parameter(torch.zeros(site.d_out))

    def side(self, taps: list[Tensor], ctx: Context) -> Tensor:
        phi = torch.stack([taps[i] for i in self.layers])  # (layers, batch, tokens, d)
        x = (phi if self.norm is None else self.norm(phi)).flatten(1, -2)  # (layers, batch * tokens, d)
        states = self.rnn(x)[0]
        read = states.mean(0) if self.cfg.aggregate == "mean" else states[-1]
        return self.cfg.output_scale * nn.functional.linear(read, self.W_o, self.b_o).view(phi.shape[1:])

    @staticmethod
    def n_params(cfg: ReadRNNConfig, sites: list[Site]) -> int:
        gates, k = CELLS[cfg.cell][1], cfg.hidden
        return sum(gates * k * (s.d_out + k + 2) + k * s.d_out + s.d_out * (1 + cfg.layer_norm) for s in sites)
