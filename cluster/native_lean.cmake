# Read by CMake at llama.cpp's `project()` call (see native_build.py). The Python package sets the
# cache variable LLAMA_BUILD_COMMON to ON by force, although it neither installs nor loads that
# library (an HTTP client, chat parsers). A normal variable hides a cache variable, so this leaves
# out 57 of 140 build steps without touching the sources.
set(LLAMA_BUILD_COMMON OFF)
