"""CLoVE: contextualized student cells against teacher cells of other views, by a margin ranking loss."""

from pretrain.clove_options import CloveOptions
from pretrain.objective import Objective


class Clove(Objective):
    """The poster's objective and the released code's; see `pretrain.clove_options`."""

    name = "clove"
    method = "CLoVE"
    Options = CloveOptions


OBJECTIVE = Clove
