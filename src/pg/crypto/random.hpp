// Random bytes and characters, and bytes as hexadecimal digits. Standard library and libsodium only.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace pgtrain::pg::crypto {

void random_bytes(unsigned char *out, size_t size);

// So many characters of the set, each as likely as any other. The set is not empty.
std::string random_text(size_t length, std::string_view char_set);

std::string to_hexadecimal(std::string_view bytes);

}  // namespace pgtrain::pg::crypto
