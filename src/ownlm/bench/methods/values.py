"""What settings of methods may be; `ownlm.bench.methods.check_settings` checks plans against it."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

Records = Annotated[int, Field(ge=0)]  # that a prompt shows
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Changes = Mapping[str, Any]  # settings of a stage, by their names in `TrainConfig` and its parts
