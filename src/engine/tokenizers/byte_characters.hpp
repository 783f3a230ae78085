// Byte-level files spell each byte as one printable character: itself where printable, else U+0100 and up.
//
// Callers: the readers and writers of vocabularies.
#pragma once

#include <string>
#include <string_view>

namespace pgtrain::engine::tokenizers {

std::string spell(std::string_view bytes);
// False when a character stands for no byte; `out` is then not to be used.
bool unspell(std::string_view text, std::string& out);

}  // namespace pgtrain::engine::tokenizers
