"""The piece bank: people whose adapters are made of some of many pieces, which all lie in memory once."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ownlm.config import LoraConfig
from ownlm.model.flight import Flight, flight
from ownlm.model.spans import Spans, add_at_, renumbered
from ownlm.model.targets import families, target_modules

FEW = 5  # a person's own pieces are multiplied where they are no more than one in so many, else all pieces
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


@dataclass(frozen=True, slots=True)
class _Family:
    """Modules that read the same input, and their pieces, one below the other: G lines of A, N R of each module's B."""

    at: slice  # where they are among the bank's modules
    A_GD: Tensor
    B_FGO: tuple[Tensor, ...]
    begin_F: tuple[int, ...]  # where each module's lines begin in A


@dataclass(frozen=True, slots=True)
class _Lines:
    """Of some slots' people, the lines of their pieces in each module's A and B, H = K R, and what each counts."""

    in_A_UMH: Tensor
    in_B_MUH: Tensor
    scale_UMH: Tensor


@dataclass(frozen=True, slots=True)
class _Picks:
    """What the tokens of a row are multiplied with: t of them at once, long spans one by one."""

    own: bool  # with their own person's lines; else with all, most of them weighted zero
    row_t: Tensor
    of_t: _Lines
    long_S: tuple[slice, ...]
    of_S: _Lines


class PieceBank:
    """U people, and the pieces of many sharers, for the target linears of a frozen causal LM.

        y = W x + (alpha / r) sum_k w_k B_n A_n x       n = n_k, for the tokens x of the person with n_K and w_K

    The pieces are resident once; a person is places n_K and weights w_K for each module. On a CPU, tokens are
    multiplied with their own person's pieces while these are few; else, and on a GPU, with all of them:

        dW_u x = B_all ((w_u (x) 1_r) * (A_all x))

    Args:
        model: the frozen model. Its code and weights are not changed; hooks are added by `attached`, and removed.
        lora: rank, alpha, target modules.
        pieces: by module, A_NRD and B_NOR of its N pieces, at least one.
        slots: U.
        first: the number of the first slot, where other banks have lower ones.

    Raises:
        BaseModelError: the model has no linear module of one of the target names.

    Source: Per-Pcs (arXiv 2406.10471), section 3; many people in one pass: ours.
    """

    def __init__(
        self,
        model: nn.Module,
        lora: LoraConfig,
        pieces: Mapping[str, tuple[Tensor, Tensor]],
        slots: int,
        first: int = 0,
    ) -> None:
        self.lora, self.slots, self.first = lora, slots, first
        like = next(model.parameters())
        self._dtype, self._device = torch.promote_types(like.dtype, torch.float32), like.device
        self._modules, self._families = list[nn.Linear](), list[_Family]()
        self._number = dict[str, int]()
        for members in families(target_modules(model, lora)):
            own = [pieces[name] for name, _ in members]
            A_GD = self._put(torch.cat([A_NRD.flatten(0, 1) for A_NRD, _ in own]))
            B_FGO = tuple(self._put(B_NOR.transpose(1, 2).flatten(0, 1)) for _, B_NOR in own)
            begin_F = tuple(accumulate([len(B_GO) for B_GO in B_FGO[:-1]], initial=0))
            at = slice(len(self._modules), len(self._modules) + len(members))
            self._families.append(_Family(at, A_GD, B_FGO, begin_F))
            self._number |= {name: at.start + member for member, (name, _) in enumerate(members)}
            self._modules += [module for _, module in members]
        begin_M = [begin for one in self._families for begin in one.begin_F]
        self._begin_M1 = torch.tensor(begin_M, device=self._device)[:, None]
        self.most = max(len(A_NRD) for A_NRD, _ in pieces.values())
        self.place_UMK = torch.zeros(slots, len(self._modules), 0, dtype=torch.long, device=self._device)
        self.weight_UMK = self._put(torch.zeros(slots, len(self._modules), 0))
        self._picked = [0] * slots  # K of each slot

    def _put(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, self._dtype)

    def load(self, slot: int, modules: Sequence[str], place_MK: Tensor, weight_MK: Tensor) -> None:
        """Puts a person into a slot: K pieces of each module. Of a weight of 0 the place does not matter."""
        picked = place_MK.shape[1]
        more = max(0, picked - self.place_UMK.shape[2])
        self.place_UMK, self.weight_UMK = pad(self.place_UMK, (0, more)), pad(self.weight_UMK, (0, more))
        self.clear(slot)
        number_M = [self._number[name] for name in modules]
        self.place_UMK[slot, number_M, :picked] = (place_MK.long() * (weight_MK != 0)).to(self._device)
        self.weight_UMK[slot, number_M, :picked] = self._put(weight_MK)
        self._picked[slot] = picked

    def clear(self, slot: int) -> None:
        """Leaves nothing of a person in a slot."""
        self.place_UMK[slot], self.weight_UMK[slot], self._picked[slot] = 0, 0, 0

    @contextmanager
    def attached(self) -> Iterator["PieceBank"]:
        """While it lasts, the model answers each token of a flight of this bank with its slot's pieces."""
        with ExitStack() as stack:
            for family in self._families:
                for member, module in enumerate(self._modules[family.at]):
                    stack.callback(module.register_forward_hook(self._hook(family, member)).remove)
            yield self

    def _hook(self, family: _Family, member: int):  # type: ignore[no-untyped-def]
        def add_update(_: nn.Module, args: tuple[Tensor, ...], y_1TO: Tensor) -> Tensor | None:
            now = flight()
            if now is None or not now.has(self):
                return None
            picks, x_1TD, first = self._picks(now), args[0], family.at.start
            if picks is None:
                return None
            read = now.read.get(id(self))
            if read is None or read[0] is not x_1TD or read[1] != first:
                read = now.read[id(self)] = x_1TD, first, _down(x_1TD[0].to(self._dtype), family, picks)
            _up_(y_1TO[0], read[2], family, member, picks, self.lora.scaling)
            return y_1TO

        return add_update

    def _picks(self, now: Flight) -> _Picks | None:
        """What the tokens that the modules see just now are multiplied with; None where there is nobody."""
        key = id(self), id(now.spans)
        if key not in now.views:
            now.views[key] = self._picks_of(renumbered(now.spans, self.first, self.slots, self._device))
        picks: _Picks | None = now.views[key]
        return picks

    def _picks_of(self, spans: Spans) -> _Picks | None:
        rows = list(spans.rows())
        picked = max((self._picked[slot] for slot, _ in rows), default=0)
        if picked == 0:
            return None
        own = self._device.type == "cpu" and FEW * picked <= self.most
        long = spans.long if own else ()
        tokens = [(at, slot) for slot, span in rows if (slot, span) not in long for at in range(span.start, span.stop)]
        row_t, slot_t = torch.tensor(tokens, dtype=torch.long, device=self._device).view(-1, 2).T.contiguous()
        slot_S = row_t.new_tensor([slot for slot, _ in long])
        at_S = tuple(at for _, at in long)
        return _Picks(own, row_t, self._lines(slot_t, picked), at_S, self._lines(slot_S, picked))

    def _lines(self, slot_U: Tensor, picked: int) -> _Lines:
        place_UMK, R = self.place_UMK[slot_U, :, :picked], self.lora.r
        line_UMH = (place_UMK[..., None] * R + torch.arange(R, device=self._device)).flatten(2)
        scale_UMH = self.weight_UMK[slot_U, :, :picked].repeat_interleave(R, dim=2)
        return _Lines(line_UMH + self._begin_M1, line_UMH.transpose(0, 1).contiguous(), scale_UMH)


def _down(x_TD: Tensor, family: _Family, picks: _Picks) -> Tensor:
    """A_n x of each token, of the family's modules side by side: h_TJ; J = F H, or all G. Zeros where nobody is.

    It is weighted here but for long spans, whose B is.
    """
    everywhere = len(picks.row_t) == len(x_TD)
    x_tD = x_TD if everywhere else x_TD.index_select(0, picks.row_t)
    line_tJ, scale_tJ = picks.of_t.in_A_UMH[:, family.at].flatten(1), picks.of_t.scale_UMH[:, family.at].flatten(1)
    if picks.own:
        h_tJ = _products(x_tD, family.A_GD, line_tJ).mul_(scale_tJ)
    else:
        scale_tG = scale_tJ.new_zeros(len(x_tD), len(family.A_GD)).scatter_add_(1, line_tJ, scale_tJ)
        h_tJ = x_tD @ family.A_GD.T * scale_tG
    if everywhere:
        return h_tJ
    h_TJ = h_tJ.new_zeros(len(x_TD), h_tJ.shape[1]).index_copy_(0, picks.row_t, h_tJ)
    if picks.long_S:
        line_SJ = picks.of_S.in_A_UMH[:, family.at].flatten(1)
        own_SJD = family.A_GD.index_select(0, line_SJ.flatten()).view(*line_SJ.shape, x_TD.shape[1])
        for at, own_JD in zip(picks.long_S, own_SJD, strict=True):
            h_TJ[at] = x_TD[at] @ own_JD.T
    return h_TJ


def _products(x_tD: Tensor, A_GD: Tensor, line_tJ: Tensor) -> Tensor:
    """x_t . A_g for the J lines g of each token alone, without copies of them."""
    t, J = line_tJ.shape
    wanted_tG = torch.sparse_csr_tensor(
        J * torch.arange(t + 1), line_tJ.flatten(), x_tD.new_zeros(t * J), (t, len(A_GD)), check_invariants=False
    )
    h_tG: Tensor = torch.sparse.sampled_addmm(wanted_tG, x_tD, A_GD.T, beta=0)
    return h_tG.values().view(t, J)


def _up_(y_TO: Tensor, h_TJ: Tensor, family: _Family, member: int, picks: _Picks, scaling: float) -> None:
    """y + (alpha / r) sum_k B_n h of each token, in place on y, for one of the family's modules."""
    B_GO, number = family.B_FGO[member], family.at.start + member
    if not picks.own:
        h_TG = h_TJ[:, family.begin_F[member] : family.begin_F[member] + len(B_GO)]
        y_TO.add_((h_TG @ B_GO).to(y_TO.dtype), alpha=scaling)
        return
    line_tH, line_SH = picks.of_t.in_B_MUH[number], picks.of_S.in_B_MUH[number]
    t, H = line_tH.shape
    h_TH = h_TJ[:, member * H : (member + 1) * H]
    if t == len(y_TO):
        y_TO.add_(_sums(h_TH, B_GO, line_tH).to(y_TO.dtype), alpha=scaling)
    elif t:
        add_at_(y_TO, picks.row_t, _sums(h_TH.index_select(0, picks.row_t), B_GO, line_tH), scaling)
    if picks.long_S:
        weight_S1 = picks.of_S.scale_UMH[:, number].flatten()[:, None]
        own_SHO = (B_GO.index_select(0, line_SH.flatten()) * weight_S1).view(*line_SH.shape, len(y_TO[0]))
        for at, own_HO in zip(picks.long_S, own_SHO, strict=True):
            y_TO[at].add_((h_TH[at] @ own_HO).to(y_TO.dtype), alpha=scaling)


def _sums(h_tH: Tensor, B_GO: Tensor, line_tH: Tensor) -> Tensor:
    """sum of h_tg B_g over the H lines g of each token alone, without copies of them."""
    starts_t = line_tH.shape[1] * torch.arange(len(line_tH))
    return torch.embedding_bag(B_GO, line_tH.flatten(), starts_t, mode=0, per_sample_weights=h_tH.flatten())[0]
