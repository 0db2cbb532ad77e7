"""The companion's library. Imported in a notebook it says errors and progress as `lib.kernel` has it."""

from lib.kernel import prepare

prepare()
