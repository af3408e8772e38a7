"""The piece bank: many users' adapters made of pieces that are in memory once; and several banks on one model."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError
from ownlm.model.bank import LoraBank
from ownlm.model.forward_context import ForwardContext, forward_context
from ownlm.model.segments import SHORT, Segments, add_at_, renumbered, to_device
from ownlm.model.targets import families, target_modules

FEW = 5  # users' own pieces are multiplied if each user of a row has at most one in so many, else all pieces
# `_products` uses sparse tensors, an interface that torch may still change.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state", category=UserWarning)


@dataclass(frozen=True, slots=True)
class _Family:
    """Modules that read the same input. Their pieces are stacked: G lines of A, P = N R lines of each module's B."""

    at: slice  # their places among the bank's modules
    A_GD: Tensor
    B_FPO: tuple[Tensor, ...]
    begin_F: tuple[int, ...]  # where each module's lines begin in A


@dataclass(frozen=True, slots=True)
class _Lines:
    """The H = K R lines of X tokens' or users' pieces in each module's A and B, with their weights."""

    in_A_XMH: Tensor
    in_B_MXH: Tensor
    scale_XMH: Tensor


@dataclass(frozen=True, slots=True)
class _Picks:
    """The pieces for a row's tokens. Own pieces: short segments' t tokens at once, long segments one by one."""

    own: bool  # False to multiply all pieces, most of them weighted zero
    row_t: Tensor
    user_t: Tensor  # place of each token's user among the row's users
    of_X: _Lines  # of each token if own pieces are multiplied; else of each user
    long_S: tuple[slice, ...]
    of_S: _Lines


class PieceBank:
    """U users, and the pieces of many sharers, for the target linears of a frozen causal LM.

        y = W x + (alpha / r) sum_k w_k B_n A_n x       n = n_k, for the tokens x of the user with n_K and w_K

    The pieces are in memory once; a user is places n_K and weights w_K for each module. On a CPU, tokens are
    multiplied with their own user's pieces if all users of the row have few; else, and on a GPU, with all pieces:

        dW_u x = B_all ((w_u (x) 1_r) * (A_all x))

    Pieces must be finite (`perpcs.admission` checks it): if all are multiplied, or users of a row have different
    numbers of pieces, some count zero times. Passes may run in several threads; `load` and `clear` are for one.

    Args:
        model: the frozen model. Its code and weights are not changed; hooks are added by `attached`, and removed.
        lora: rank, alpha and target modules.
        pieces: returns A_NRD and B_NOR of a module's N pieces, at least one.
        slots: the number of slots, U.
        first: the number of the first slot; other banks of the same passes have lower ones.

    Raises:
        BaseModelError: the model has no linear module of one of the target names.

    Source: Per-Pcs (arXiv 2406.10471), section 3; many users in one pass: ours.
    """

    def __init__(
        self,
        model: nn.Module,
        lora: LoraConfig,
        pieces: Callable[[str], tuple[Tensor, Tensor]],
        slots: int,
        first: int = 0,
    ) -> None:
        self.lora, self.slots, self.first = lora, slots, first
        like = next(model.parameters())
        self._dtype, self._device = torch.promote_types(like.dtype, torch.float32), like.device
        self._modules, self._families = list[nn.Linear](), list[_Family]()
        self._number, counts = dict[str, int](), list[int]()
        for members in families(target_modules(model, lora)):
            own = [pieces(name) for name, _ in members]
            A_GD = self._put(torch.cat([A_NRD.flatten(0, 1) for A_NRD, _ in own]))
            B_FPO = tuple(self._put(B_NOR.transpose(1, 2).flatten(0, 1)) for _, B_NOR in own)
            begin_F = tuple(accumulate([len(B_PO) for B_PO in B_FPO[:-1]], initial=0))
            at = slice(len(self._modules), len(self._modules) + len(members))
            self._families.append(_Family(at, A_GD, B_FPO, begin_F))
            self._number |= {name: at.start + member for member, (name, _) in enumerate(members)}
            self._modules += [module for _, module in members]
            counts += [len(A_NRD) for A_NRD, _ in own]
        begin_M = [begin for one in self._families for begin in one.begin_F]
        self._begin_M1 = torch.tensor(begin_M, device=self._device)[:, None]
        self.most, self._count_M1 = max(counts), torch.tensor(counts)[:, None]
        self._held: list[tuple[Tensor, Tensor] | None] = [None] * slots  # place_MK, weight_MK

    def _put(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, self._dtype)

    def load(self, slot: int, modules: Sequence[str], place_MK: Tensor, weight_MK: Tensor) -> None:
        """Puts a user into a slot: K pieces of each module. The place of a weight of 0 does not matter.

        Raises:
            AdapterError: there is no piece at a place.
        """
        order = torch.tensor([self._number[name] for name in modules]).argsort()
        place_MK, weight_MK = place_MK.long()[order], weight_MK[order]
        best_M1 = weight_MK.abs().argmax(dim=1, keepdim=True)  # pieces of weight 0 become pieces of the user, too
        best_M1 = torch.where(weight_MK.gather(1, best_M1) != 0, place_MK.gather(1, best_M1), 0)
        place_MK = torch.where(weight_MK != 0, place_MK, best_M1)
        if bool(((place_MK < 0) | (place_MK >= self._count_M1)).any()):
            raise AdapterError("There is no such piece", got=int(place_MK.max()), expected=f"below {self.most}")
        self.clear(slot)
        self._held[slot] = place_MK.to(self._device), self._put(weight_MK)

    def clear(self, slot: int) -> None:
        """Empties a slot."""
        held, self._held[slot] = self._held[slot], None
        for tensor in held or ():
            tensor.zero_()

    @contextmanager
    def attached(self) -> Iterator["PieceBank"]:
        """Within this context, forward passes of this bank apply each token's slot's pieces."""
        with ExitStack() as stack:
            for family in self._families:
                for member, module in enumerate(self._modules[family.at]):
                    stack.callback(module.register_forward_hook(self._hook(family, member)).remove)
            yield self

    def _hook(self, family: _Family, member: int):  # type: ignore[no-untyped-def]
        names = list(self._number)[family.at]

        def add_update(_: nn.Module, args: tuple[Tensor, ...], y_1TO: Tensor) -> Tensor | None:
            now = forward_context()
            if now is None or not now.has(self):
                return None
            x_1TD, first = args[0], family.at.start
            picks = self._picks(now, names[member], x_1TD)
            if picks is None:
                return None
            read = now.read.get(id(self))
            if read is None or read[0] is not x_1TD or read[1] != first:
                read = now.read[id(self)] = x_1TD, first, _down(x_1TD.flatten(0, -2).to(self._dtype), family, picks)
            _up_(y_1TO.view(-1, y_1TO.shape[-1]), read[2], family, member, picks, self.lora.scaling)
            return y_1TO

        return add_update

    def _picks(self, now: ForwardContext, name: str, x_1TD: Tensor) -> _Picks | None:
        """The pieces for the tokens of a module's input; None if none of them has a user."""
        row = now.segments_of(name, x_1TD)
        key = id(self), id(row)
        if key not in now.views:
            now.views[key] = self._picks_of(renumbered(row, self.first, self.slots, self._device))
        picks: _Picks | None = now.views[key]
        return picks

    def _picks_of(self, segments: Segments) -> _Picks | None:
        users = [(at, held) for slot, at in segments.rows() if (held := self._held[slot]) is not None]
        if not users:
            return None
        most = max(place_MK.shape[1] for _, (place_MK, _) in users)
        place_XMK = torch.stack([_widened(place_MK, most, place_MK[:, :1]) for _, (place_MK, _) in users])
        weight_XMK = torch.stack([_widened(weight_MK, most, weight_MK.new_zeros(1, 1)) for _, (_, weight_MK) in users])
        own = self._device.type == "cpu" and FEW * most <= self.most
        long = [number for number, (at, _) in enumerate(users) if own and at.stop - at.start > SHORT]
        tokens = [
            (place, number)
            for number, (at, _) in enumerate(users)
            if number not in long
            for place in range(at.start, at.stop)
        ]
        row_t, user_t = torch.tensor(tokens, dtype=torch.long).view(-1, 2).T.contiguous()
        at_S = tuple(users[number][0] for number in long)
        row_t, user_t, number_S = to_device((row_t, user_t, torch.tensor(long, dtype=torch.long)), self._device)
        of_S = self._lines(place_XMK[number_S], weight_XMK[number_S])
        if own:
            place_XMK, weight_XMK = place_XMK[user_t], weight_XMK[user_t]
        return _Picks(own, row_t, user_t, self._lines(place_XMK, weight_XMK), at_S, of_S)

    def _lines(self, place_XMK: Tensor, weight_XMK: Tensor) -> _Lines:
        line_XMH = (place_XMK[..., None] * self.lora.r + torch.arange(self.lora.r, device=self._device)).flatten(2)
        scale_XMH = weight_XMK.repeat_interleave(self.lora.r, dim=2)
        return _Lines(line_XMH + self._begin_M1, line_XMH.transpose(0, 1).contiguous(), scale_XMH)


def _widened(of_MK: Tensor, most: int, more_M1: Tensor) -> Tensor:
    """Adds columns up to `most`."""
    more = most - of_MK.shape[1]
    return torch.cat([of_MK, more_M1.expand(len(of_MK), more)], dim=1) if more else of_MK


def _down(x_TD: Tensor, family: _Family, picks: _Picks) -> Tensor:
    """A_n x of each token, of the family's modules side by side: h_TJ; J = F H, or all G. Zero without a user.

    The weights are applied here, for long segments in `_up_`.
    """
    everywhere = len(picks.row_t) == len(x_TD)
    x_tD = x_TD if everywhere else x_TD.index_select(0, picks.row_t)
    line_XJ, scale_XJ = picks.of_X.in_A_XMH[:, family.at].flatten(1), picks.of_X.scale_XMH[:, family.at].flatten(1)
    if picks.own:
        h_tJ = _products(x_tD, family.A_GD, line_XJ).mul_(scale_XJ)
    else:
        scale_XG = scale_XJ.new_zeros(len(scale_XJ), len(family.A_GD)).scatter_add_(1, line_XJ, scale_XJ)
        h_tJ = x_tD @ family.A_GD.T * scale_XG[picks.user_t]
    if everywhere:
        return h_tJ
    h_TJ = h_tJ.new_zeros(len(x_TD), h_tJ.shape[1]).index_copy_(0, picks.row_t, h_tJ)
    if picks.long_S:
        line_SJ = picks.of_S.in_A_XMH[:, family.at].flatten(1)
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
    B_PO, number = family.B_FPO[member], family.at.start + member
    if not picks.own:
        h_TP = h_TJ[:, family.begin_F[member] : family.begin_F[member] + len(B_PO)]
        y_TO.add_((h_TP @ B_PO).to(y_TO.dtype), alpha=scaling)
        return
    line_tH, line_SH = picks.of_X.in_B_MXH[number], picks.of_S.in_B_MXH[number]
    t, H = line_tH.shape
    h_TH = h_TJ[:, member * H : (member + 1) * H]
    if t == len(y_TO):
        y_TO.add_(_sums(h_TH, B_PO, line_tH).to(y_TO.dtype), alpha=scaling)
    elif t:
        add_at_(y_TO, picks.row_t, _sums(h_TH.index_select(0, picks.row_t), B_PO, line_tH), scaling)
    if picks.long_S:
        weight_SH1 = picks.of_S.scale_XMH[:, number, :, None]
        own_SHO = B_PO.index_select(0, line_SH.flatten()).view(*line_SH.shape, y_TO.shape[1]) * weight_SH1
        for at, own_HO in zip(picks.long_S, own_SHO, strict=True):
            y_TO[at].add_((h_TH[at] @ own_HO).to(y_TO.dtype), alpha=scaling)


def _sums(h_tH: Tensor, B_PO: Tensor, line_tH: Tensor) -> Tensor:
    """sum of h_tp B_p over the H lines p of each token alone, without copies of them."""
    starts_t = line_tH.shape[1] * torch.arange(len(line_tH))
    return torch.embedding_bag(B_PO, line_tH.flatten(), starts_t, mode=0, per_sample_weights=h_tH.flatten())[0]


class Banks:
    """A changing set of frozen banks that work in the same passes; no two have a slot number in common."""

    def __init__(self) -> None:
        self._attached: dict[LoraBank | PieceBank, ExitStack] = {}

    @property
    def beside(self) -> Sequence[LoraBank | PieceBank]:
        """The attached banks."""
        return tuple(self._attached)

    def attach(self, bank: LoraBank | PieceBank) -> None:
        """Adds a bank to the forward passes of this set."""
        self._attached[bank] = stack = ExitStack()
        stack.enter_context(bank.attached())

    def detach(self, bank: LoraBank | PieceBank) -> None:
        """Removes a bank from the model."""
        self._attached.pop(bank).close()


@contextmanager
def attached(*banks: LoraBank | PieceBank) -> Iterator[Banks]:
    """Attaches banks within a context."""
    together = Banks()
    try:
        for bank in banks:
            together.attach(bank)
        yield together
    finally:
        for bank in together.beside:
            together.detach(bank)
