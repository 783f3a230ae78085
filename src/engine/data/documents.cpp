// Reads the samples file.
#include "engine/data/documents.hpp"

#include <cstring>

#include "engine/core/error.hpp"
#include "engine/core/utf8.hpp"

namespace pgtrain::engine::data {
namespace {

constexpr std::size_t kBytesBetweenCalls = std::size_t{8} << 20;

[[noreturn]] void refuse(const std::string& reason, const char* hint) { throw core::Error("data_invalid", reason, "", hint); }

}  // namespace

Documents::Documents(std::string_view bytes, const std::function<void()>& keep_alive, Passed passed) : bytes_(bytes), passed_(std::move(passed)) {
  std::size_t at = 0, called_at = 0, passed_at = 0;
  while (at < bytes.size()) {
    const std::string sample = "sample " + std::to_string(count_ + 1);
    if (bytes.size() - at < 4) refuse(sample + ": the file ends inside its length, at byte " + std::to_string(at), "The samples file was cut off; start the run again.");
    std::uint32_t length = 0;
    std::memcpy(&length, bytes.data() + at, 4);
    at += 4;
    if (length > bytes.size() - at)
      refuse(sample + ": has " + std::to_string(length) + " bytes, the file holds " + std::to_string(bytes.size() - at) + " more",
             "The samples file was cut off; start the run again.");
    if (length == 0) refuse(sample + " is empty", "Remove empty samples from the dataset; there is nothing to learn from them.");
    const std::string_view text = bytes.substr(at, length);
    if (const std::size_t wrong = core::first_invalid_utf8(text); wrong != std::string_view::npos)
      refuse(sample + ": not valid UTF-8 at byte " + std::to_string(wrong), "Store the text as UTF-8.");
    ++count_;
    text_bytes_ += length;
    at += length;
    if (keep_alive && at - called_at >= kBytesBetweenCalls) {
      keep_alive();
      called_at = at;
    }
    pass(passed_at, at);
  }
  if (count_ == 0) refuse("there are no samples", "Add samples to the dataset before training on it.");
}

void Documents::pass(std::size_t& from, std::size_t at) const {
  if (!passed_ || at - from < kBytesBetweenCalls) return;
  passed_(from, at);
  from = at;
}

void Documents::for_each(const std::function<void(std::size_t, std::string_view)>& visit) const {
  std::size_t at = 0, passed_at = 0;
  for (std::size_t index = 0; index < count_; ++index) {
    std::uint32_t length = 0;
    std::memcpy(&length, bytes_.data() + at, 4);
    visit(index, bytes_.substr(at + 4, length));
    at += 4 + std::size_t{length};
    pass(passed_at, at);
  }
}

std::string encode_documents(const std::vector<std::string>& texts) {
  std::string out;
  for (const std::string& text : texts) {
    const std::uint32_t length = static_cast<std::uint32_t>(text.size());
    out.append(reinterpret_cast<const char*>(&length), 4);
    out += text;
  }
  return out;
}

}  // namespace pgtrain::engine::data
