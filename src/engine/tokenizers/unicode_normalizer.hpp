// Unicode normal forms C and D, as the `tokenizers` package computes them (its tables are of an older Unicode).
//
// Bytes that are no valid UTF-8 are passed on as they are and nothing composes across them. Called by normalizer.cpp.
#pragma once

#include <string>
#include <string_view>

namespace pgtrain::engine::tokenizers {

std::string to_nfc(std::string_view text);
std::string to_nfd(std::string_view text);

}  // namespace pgtrain::engine::tokenizers
