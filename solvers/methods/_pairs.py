"""Embedded Runge–Kutta pairs.

Stages x_i = x + dt sum_j a_ij v_j at times t + c_i dt, v_i their derivatives; x_s = x + dt sum_i b_i v_i, with the
error estimate dt sum_i e_i v_i. The last stage is x_s, its derivative the first of the next step.

References: Bogacki & Shampine 1989, Appl. Math. Lett. 2, 321; Dormand & Prince 1980, J. Comput. Appl. Math. 6, 19;
Tsitouras 2011, Comput. Math. Appl. 62, 770, table 1.
"""

from typing import NamedTuple


class Pair(NamedTuple):
    """An embedded pair.

    Attributes:
        order: of x_s, which is carried on.
        k: order of the estimate's local error.
        c: nodes.
        a: rows of the stages, row i of length i.
        b: weights of x_s.
        e: weights of the estimate.
        e_3: weights of a second estimate, of lower order, which keeps the first from being trusted where it happens to
            be small.
    """

    order: int
    k: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    e: tuple[float, ...]
    e_3: tuple[float, ...] | None = None

    @property
    def constant(self) -> float:
        """c in the leading term c (h z)^k of what a step is judged by, on dx/dt = z x.

        With two estimates, c_5 (h z)^6 and c_3 (h z)^4, that is 10 (c_5 (h z)^6)^2 / (c_3 (h z)^4).
        """
        if self.e_3 is None:
            return self._leading(self.e, self.k)
        return 10 * self._leading(self.e, 6) ** 2 / self._leading(self.e_3, 4)

    def _leading(self, e: tuple[float, ...], power: int) -> float:
        """Absolute coefficient of (h z)^power in the estimate with weights e."""
        powers = [1.0] * len(self.c)
        for _ in range(power - 1):
            powers = [sum(a * p for a, p in zip(row, powers, strict=False)) for row in self.a]
        return abs(sum(w * p for w, p in zip(e, powers, strict=True)))


BOGACKI_SHAMPINE = Pair(
    order=3,
    k=3,
    c=(0, 1 / 2, 3 / 4, 1),
    a=((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=(2 / 9, 1 / 3, 4 / 9, 0),
    e=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
)

DORMAND_PRINCE = Pair(
    order=5,
    k=5,
    c=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    b=(35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),
    e=(71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)

TSITOURAS = Pair(
    order=5,
    k=5,
    c=(0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1),
    a=(
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774),
    ),
    b=(0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774, 0),
    e=(
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ),
)
