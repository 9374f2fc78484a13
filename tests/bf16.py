"""The mark of tests of bf16, where there is nothing to learn from emulating it."""

import pytest

from terramorph.processor import native_bf16

needs_bf16 = pytest.mark.skipif(not native_bf16("cpu"), reason="bf16 is emulated on this processor")
