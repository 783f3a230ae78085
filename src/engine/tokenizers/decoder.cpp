// The steps of decoder.hpp over a list of token spellings.
#include "engine/tokenizers/decoder.hpp"

#include <utility>

#include "engine/core/utf8.hpp"
#include "engine/tokenizers/byte_characters.hpp"
#include "engine/tokenizers/normalizer.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// How many bytes of a sequence that is broken belong together: the longest start of a valid one.
std::size_t broken_length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) -> unsigned { return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0; };
  const auto is_between = [](unsigned value, unsigned least, unsigned most) { return value >= least && value <= most; };
  const unsigned first = byte(0);
  if (is_between(first, 0xE0, 0xEF)) {
    const unsigned least = first == 0xE0 ? 0xA0 : 0x80, most = first == 0xED ? 0x9F : 0xBF;
    return is_between(byte(1), least, most) ? 2 : 1;
  }
  if (is_between(first, 0xF0, 0xF4)) {
    const unsigned least = first == 0xF0 ? 0x90 : 0x80, most = first == 0xF4 ? 0x8F : 0xBF;
    if (!is_between(byte(1), least, most)) return 1;
    return is_between(byte(2), 0x80, 0xBF) ? 3 : 2;
  }
  return 1;
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// -1 = no byte token. A sign in front of one digit is a number to the package too.
int byte_of(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  const int high = token[3] == '+' ? 0 : hex_value(token[3]), low = hex_value(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

std::vector<std::string> join_bytes(const std::vector<std::string>& tokens, bool keeps_bytes) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (keeps_bytes || core::first_invalid_utf8(bytes) == std::string::npos)
      out.push_back(bytes);
    else
      for (std::size_t i = 0; i < bytes.size(); ++i) out.emplace_back(kReplacement);
    bytes.clear();
  };
  for (const std::string& token : tokens) {
    if (const int byte = byte_of(token); byte >= 0) {
      bytes += static_cast<char>(byte);
      continue;
    }
    flush();
    out.push_back(token);
  }
  flush();
  return out;
}

std::string join(const std::vector<std::string>& tokens) {
  std::string out;
  for (const std::string& token : tokens) out += token;
  return out;
}

std::string bytes_of(const std::vector<std::string>& tokens) {
  std::string out, bytes;
  for (const std::string& token : tokens) out += unspell(token, bytes) ? bytes : token;
  return out;
}

std::string_view strip(const DecoderStep& step, std::string_view token) {
  const std::string_view mark = step.content;
  for (std::size_t i = 0; i < step.start && token.substr(0, mark.size()) == mark; ++i) token.remove_prefix(mark.size());
  for (std::size_t i = 0; i < step.stop && token.size() >= mark.size() && token.substr(token.size() - mark.size()) == mark; ++i)
    token.remove_suffix(mark.size());
  return token;
}

}  // namespace

std::string repair_as_rust(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (std::size_t at = 0; at < bytes.size();) {
    const core::CodePoint point = core::decode_utf8(bytes, at);
    if (point.bytes != 0) {
      out.append(bytes.substr(at, static_cast<std::size_t>(point.bytes)));
      at += static_cast<std::size_t>(point.bytes);
    } else {
      out += kReplacement;
      at += broken_length(bytes, at);
    }
  }
  return out;
}

std::string decode_tokens(const std::vector<DecoderStep>& steps, std::vector<std::string> tokens, bool keeps_bytes) {
  using Kind = DecoderStep::Kind;
  for (const DecoderStep& step : steps) {
    switch (step.kind) {
      case Kind::ByteLevel: {
        std::string bytes = bytes_of(tokens);
        tokens.assign(1, keeps_bytes ? std::move(bytes) : repair_as_rust(bytes));
        break;
      }
      case Kind::Fuse:
        tokens.assign(1, join(tokens));
        break;
      case Kind::ByteFallback:
        tokens = join_bytes(tokens, keeps_bytes);
        break;
      case Kind::Replace:
        for (std::string& token : tokens) token = replace_all(token, step.pattern, step.content);
        break;
      case Kind::Strip:
        for (std::string& token : tokens) token = std::string(strip(step, token));
        break;
      case Kind::Metaspace:
        for (std::size_t i = 0; i < tokens.size(); ++i)
          tokens[i] = replace_all(tokens[i], step.content, i == 0 && step.drops_first ? "" : " ");
        break;
    }
  }
  return join(tokens);
}

}  // namespace pgtrain::engine::tokenizers
