// Reading and keeping root keys, see key_ring.hpp.
#include "pg/crypto/key_ring.hpp"

#include <sodium.h>

#include <algorithm>
#include <cstring>

#include "pg/crypto/library.hpp"
#include "pg/errors.hpp"

namespace pgtrain::pg::crypto {
namespace {

constexpr char id_context[] = "pgtrain root key id";
constexpr size_t digits = 2 * root_key_bytes;
constexpr std::string_view current_mark = "current";
constexpr char one_liner[] = "A key is a line of 64 hexadecimal digits, as `openssl rand -hex 32` prints.";

KeyRingSource ring_source = nullptr;

KeyId id_of(const unsigned char *key) {
  static_assert(std::tuple_size_v<KeyId> <= crypto_generichash_BYTES_MIN);
  std::array<unsigned char, crypto_generichash_BYTES_MIN> hash{};
  crypto_generichash_state state;
  crypto_generichash_init(&state, key, root_key_bytes, hash.size());
  crypto_generichash_update(&state, reinterpret_cast<const unsigned char *>(id_context), sizeof id_context);
  crypto_generichash_final(&state, hash.data(), hash.size());
  sodium_memzero(&state, sizeof state);
  KeyId id;
  std::memcpy(id.data(), hash.data(), id.size());
  return id;
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view blanks = " \t\r";
  const size_t first = text.find_first_not_of(blanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

// The next line without its comment and the blanks around it.
std::string_view take_line(std::string_view &text) {
  const size_t end = std::min(text.find('\n'), text.size());
  std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return trim(line.substr(0, line.find('#')));
}

[[noreturn]] void refuse(const std::string &origin, const std::string &what, const char *hint = one_liner) {
  throw Error(code::InvalidData, "the root keys from " + origin + " cannot be used", what, hint);
}

}  // namespace

Error no_root_key(const std::string &detail) {
  return Error(code::Unavailable, "there is no root key to seal or open secrets with", detail,
               "Make one (openssl rand -hex 32 > FILE; chmod 600 FILE), name the file in pgtrain.root_key_file, and restart the server.");
}

std::string to_text(const KeyId &id) {
  std::array<char, 2 * std::tuple_size_v<KeyId> + 1> text{};
  sodium_bin2hex(text.data(), text.size(), id.data(), id.size());
  return text.data();
}

KeyRing::KeyRing(std::string_view text, const std::string &origin) {
  initialise();
  LockedBytes found(keys_max * root_key_bytes);
  size_t marked = keys_max;
  for (int number = 1; !text.empty(); ++number) {
    const std::string_view line = take_line(text);
    if (line.empty()) continue;
    const std::string place = "Line " + std::to_string(number);
    const std::string_view mark = line.size() < digits ? std::string_view() : trim(line.substr(digits));
    if (ids_.size() == keys_max) refuse(origin, place + " is one key too many; there may be " + std::to_string(keys_max) + ".");
    unsigned char *key = found.data() + ids_.size() * root_key_bytes;
    size_t length = 0;
    if (line.size() < digits || sodium_hex2bin(key, root_key_bytes, line.data(), digits, nullptr, &length, nullptr) != 0 ||
        length != root_key_bytes || (!mark.empty() && mark != current_mark))
      refuse(origin, place + " is not a key.");
    if (sodium_is_zero(key, root_key_bytes)) refuse(origin, place + " is a key of zeros only, which is no secret.");
    const KeyId id = id_of(key);
    if (contains(id)) refuse(origin, place + " repeats key " + to_text(id) + ".", "Remove one of the two.");
    if (!mark.empty()) {
      if (marked != keys_max) refuse(origin, place + " is marked as current, and another one is too.", "Mark one.");
      marked = ids_.size();
    }
    ids_.push_back(id);
  }
  if (ids_.empty()) refuse(origin, "There is no key in it.");
  current_ = marked == keys_max ? ids_.size() - 1 : marked;
  keys_ = LockedBytes(ids_.size() * root_key_bytes);
  std::memcpy(keys_.data(), found.data(), keys_.size());
}

KeyRing KeyRing::random() {
  initialise();
  KeyRing ring;
  ring.keys_ = LockedBytes(root_key_bytes);
  randombytes_buf(ring.keys_.data(), root_key_bytes);
  ring.ids_.push_back(id_of(ring.keys_.data()));
  return ring;
}

bool KeyRing::contains(const KeyId &id) const { return std::find(ids_.begin(), ids_.end(), id) != ids_.end(); }

RootKey KeyRing::at(size_t index) const { return RootKey(keys_.data() + index * root_key_bytes, root_key_bytes); }

RootKey KeyRing::key(const KeyId &id) const {
  const auto found = std::find(ids_.begin(), ids_.end(), id);
  if (found == ids_.end())
    throw Error(code::Unavailable, "the root key " + to_text(id) + " is missing",
                "What is to be opened was sealed under it, and the server has not been given it.",
                "Add that key to pgtrain.root_key_file (or what pgtrain.root_key_command prints) and reload.");
  return at(static_cast<size_t>(found - ids_.begin()));
}

const KeyId &KeyRing::current_id() const {
  if (empty()) throw no_root_key("None is set.");
  return ids_[current_];
}

LockedBytes KeyRing::to_lines() const {
  // Each line: the digits, perhaps the mark, a newline.
  LockedBytes lines(ids_.size() * (digits + 1) + 1 + current_mark.size());
  char *end = reinterpret_cast<char *>(lines.data());
  for (size_t i = 0; i < ids_.size(); ++i) {
    // Writes a zero byte behind the digits, which the mark or the newline replaces.
    sodium_bin2hex(end, digits + 1, at(i).data(), root_key_bytes);
    end += digits;
    if (i == current_) {
      *end++ = ' ';
      end = std::copy(current_mark.begin(), current_mark.end(), end);
    }
    *end++ = '\n';
  }
  return lines;
}

void set_key_ring_source(KeyRingSource source) { ring_source = source; }

const KeyRing &key_ring() {
  if (ring_source == nullptr) throw no_root_key("None is set.");
  return ring_source();
}

}  // namespace pgtrain::pg::crypto
