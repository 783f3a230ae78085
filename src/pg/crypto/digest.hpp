// SHA-256, for content that others must be able to check with common tools. Standard library and libsodium only.
#pragma once

#include <array>
#include <string_view>

namespace pgtrain::pg::crypto {

using Digest = std::array<unsigned char, 32>;

// SHA-256 of the two parts one after the other.
Digest sha256(std::string_view first, std::string_view second = {});

}  // namespace pgtrain::pg::crypto
