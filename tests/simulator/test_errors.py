"""What a device, its driver or their libraries refuse is one line that says what to do."""

from __future__ import annotations

import pytest
from numba.cuda.cudadrv import driver

from qdqcli.errors import UnavailableError
from qdqcli.op.cuda.target import device_errors


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY", "out of memory; lower --max-memory"),
        ("[35] Call to cuInit results in CUDA_ERROR_INSUFFICIENT_DRIVER", "driver is too old"),
        ("[222] Call to cuLinkAddData results in CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "driver is too old"),
        ("[100] Call to cuInit results in CUDA_ERROR_NO_DEVICE", "no CUDA device; check nvidia-smi"),
        ("[700] cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA device failed (CUDA_ERROR_ILLEGAL_ADDRESS)"),
        (
            "Error at driver init: \n\nCUDA driver library\ncannot be found.\n:",
            "CUDA driver library cannot be found; or",
        ),
    ],
)
def test_failures_are_told(text: str, told: str) -> None:
    with pytest.raises(UnavailableError) as caught, device_errors():
        raise driver.CudaAPIError(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 5


def test_our_own_bugs_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), device_errors():
        _ = 1 / 0
