# Of llama.cpp, the library alone: its helpers for command lines take four times as long to compile, and nothing here calls them.
# Included behind llama.cpp's project() by scripts/test_python.sh.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "" FORCE)
