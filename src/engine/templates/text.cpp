// Operations on texts: pieces, search, splitting and joining. Case is in casing.cpp.
#include "engine/templates/text.hpp"

#include <algorithm>

#include "engine/core/utf8.hpp"

namespace pgtrain::engine::templates {
namespace {

std::size_t point_bytes(std::string_view bytes, std::size_t at) {
  const unsigned char first = static_cast<unsigned char>(bytes[at]);
  return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

bool is_ascii(std::string_view bytes) {
  return std::none_of(bytes.begin(), bytes.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x80; });
}

// Offsets of all code points, with the end.
std::vector<std::size_t> offsets(std::string_view bytes) {
  std::vector<std::size_t> out;
  for (std::size_t at = 0; at < bytes.size(); at += point_bytes(bytes, at)) out.push_back(at);
  out.push_back(bytes.size());
  return out;
}

std::size_t space_at(std::string_view bytes, std::size_t at) {
  const core::CodePoint point = core::decode_utf8(bytes, at);
  return is_space(point.value) ? point.bytes : 0;
}

std::size_t space_before(std::string_view bytes, std::size_t end) {
  std::size_t at = end - 1;
  while ((static_cast<unsigned char>(bytes[at]) & 0xC0) == 0x80) --at;
  return is_space(core::decode_utf8(bytes, at).value) ? end - at : 0;
}

}  // namespace

void Budget::step(std::uint64_t count) {
  if (count > steps_) throw Failure("more steps are needed than a template may take");
  steps_ -= count;
}

void Budget::bytes(std::uint64_t count) {
  if (count > bytes_) throw Failure("more memory is needed than a template may take");
  bytes_ -= count;
}

void Budget::length(std::uint64_t bytes) const {
  if (bytes > longest_) throw Failure("a text becomes longer than " + std::to_string(longest_) + " bytes");
}

bool is_space(char32_t p) {
  return (p >= 9 && p <= 13) || (p >= 0x1C && p <= 0x20) || p == 0x85 || p == 0xA0 || p == 0x1680 || (p >= 0x2000 && p <= 0x200A) ||
         p == 0x2028 || p == 0x2029 || p == 0x202F || p == 0x205F || p == 0x3000;
}

std::size_t count_points(std::string_view bytes) {
  return std::count_if(bytes.begin(), bytes.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

bool is_data_at(const Text& text, std::size_t byte) {
  const auto after = std::upper_bound(text.data.begin(), text.data.end(), byte, [](std::size_t at, const Range& range) { return at < range.end; });
  return after != text.data.end() && after->begin <= byte;
}

void TextBuilder::mark(std::size_t begin, std::size_t end) {
  if (begin == end) return;
  if (!text_.data.empty() && text_.data.back().end == begin) {
    text_.data.back().end = end;
  } else {
    budget_.bytes(sizeof(Range));
    text_.data.push_back({begin, end});
  }
}

void TextBuilder::add(std::string_view bytes, bool is_data) {
  budget_.bytes(bytes.size());
  budget_.length(text_.bytes.size() + bytes.size());
  const std::size_t begin = text_.bytes.size();
  text_.bytes.append(bytes);
  if (is_data) mark(begin, text_.bytes.size());
}

void TextBuilder::add(const Text& text, std::size_t begin, std::size_t end) {
  const std::size_t at = text_.bytes.size();
  add(std::string_view(text.bytes).substr(begin, end - begin));
  auto range = std::upper_bound(text.data.begin(), text.data.end(), begin, [](std::size_t from, const Range& r) { return from < r.end; });
  for (; range != text.data.end() && range->begin < end; ++range)
    mark(at + std::max(range->begin, begin) - begin, at + std::min(range->end, end) - begin);
}

Value part(const Text& text, std::size_t begin, std::size_t end, Budget& budget) {
  TextBuilder builder(budget);
  if (begin < end) builder.add(text, begin, end);
  budget.bytes(sizeof(Text));
  return builder.value();
}

Value character(const Text& text, std::int64_t index, Budget& budget) {
  budget.step(text.bytes.size() / 256);
  if (is_ascii(text.bytes)) {
    const auto size = static_cast<std::int64_t>(text.bytes.size());
    if (index < 0) index += size;
    if (index < 0 || index >= size) return Value::undefined("the text has no character of this index");
    return part(text, index, index + 1, budget);
  }
  const auto places = offsets(text.bytes);
  budget.step(places.size() / 16);
  const auto size = static_cast<std::int64_t>(places.size()) - 1;
  if (index < 0) index += size;
  if (index < 0 || index >= size) return Value::undefined("the text has no character of this index");
  return part(text, places[index], places[index + 1], budget);
}

std::vector<Value> characters(const Text& text, Budget& budget) {
  std::vector<Value> out;
  for (std::size_t at = 0; at < text.bytes.size();) {
    budget.step();
    const std::size_t next = at + point_bytes(text.bytes, at);
    out.push_back(part(text, at, next, budget));
    at = next;
  }
  return out;
}

Slice resolve_slice(const Value& start, const Value& stop, const Value& step, std::size_t elements) {
  const auto given = [](const Value& value, const char* what) {
    // jinja2 answers with undefined where all parts are written in the template, and fails elsewhere.
    if (!value.is(Kind::None) && !value.is_whole()) unsupported(std::string("a slice whose ") + what + " is of type " + python_type(value));
    return !value.is(Kind::None);
  };
  const auto size = static_cast<std::int64_t>(elements);
  Slice out;
  if (given(step, "step")) out.step = step.whole();
  if (out.step == 0) throw Failure("the step of a slice must not be 0");
  out.step = std::max(out.step, -INT64_MAX);
  const bool is_back = out.step < 0;
  const std::int64_t lowest = is_back ? -1 : 0, highest = is_back ? size - 1 : size;
  const auto place = [&](const Value& value) {
    std::int64_t at = value.whole();
    if (at < 0) at = at + size < lowest ? lowest : at + size;
    return std::min(at, highest);
  };
  out.start = given(start, "start") ? place(start) : is_back ? highest : lowest;
  const std::int64_t end = given(stop, "stop") ? place(stop) : is_back ? lowest : highest;
  if (is_back ? end < out.start : out.start < end) out.count = is_back ? (out.start - end - 1) / -out.step + 1 : (end - out.start - 1) / out.step + 1;
  return out;
}

Value slice(const Text& text, const Slice& slice, Budget& budget) {
  const auto places = offsets(text.bytes);
  budget.step(places.size() / 16);
  if (slice.count == 0) return Value::text("");
  if (slice.step == 1) return part(text, places[slice.start], places[slice.start + slice.count], budget);
  TextBuilder builder(budget);
  for (std::int64_t i = 0, at = slice.start; i < slice.count; ++i, at += i < slice.count ? slice.step : 0) {
    budget.step();
    builder.add(text, places[at], places[at + 1]);
  }
  return builder.value();
}

Value strip(const Text& text, Side side, const std::string* characters, Budget& budget) {
  const std::string_view bytes = text.bytes;
  std::size_t begin = 0, end = bytes.size();
  const auto listed = [&](std::string_view point) { return characters->find(point) != std::string::npos; };
  budget.step(bytes.size() / 64);
  if (side != Side::Right) {
    while (begin < end) {
      const std::size_t size = characters == nullptr ? space_at(bytes, begin) : listed(bytes.substr(begin, point_bytes(bytes, begin))) ? point_bytes(bytes, begin) : 0;
      if (size == 0) break;
      begin += size;
    }
  }
  if (side != Side::Left) {
    while (end > begin) {
      std::size_t at = end - 1;
      while ((static_cast<unsigned char>(bytes[at]) & 0xC0) == 0x80) --at;
      const std::size_t size = characters == nullptr ? space_before(bytes, end) : listed(bytes.substr(at, end - at)) ? end - at : 0;
      if (size == 0) break;
      end -= size;
    }
  }
  return part(text, begin, end, budget);
}

std::vector<Value> split(const Text& text, const Text* separator, std::int64_t limit, Budget& budget) {
  const std::string_view bytes = text.bytes;
  std::vector<Value> out;
  std::size_t at = 0;
  if (separator != nullptr) {
    if (separator->bytes.empty()) throw Failure("split by an empty text");
    for (std::size_t found; limit != 0 && (found = bytes.find(separator->bytes, at)) != std::string_view::npos; --limit) {
      budget.step();
      out.push_back(part(text, at, found, budget));
      at = found + separator->bytes.size();
    }
    out.push_back(part(text, at, bytes.size(), budget));
    return out;
  }
  const auto skip = [&] {
    while (at < bytes.size()) {
      const std::size_t size = space_at(bytes, at);
      if (size == 0) return;
      at += size;
    }
  };
  for (skip(); at < bytes.size(); skip()) {
    budget.step();
    if (limit-- == 0) {
      out.push_back(part(text, at, bytes.size(), budget));
      return out;
    }
    const std::size_t begin = at;
    while (at < bytes.size() && space_at(bytes, at) == 0) at += point_bytes(bytes, at);
    out.push_back(part(text, begin, at, budget));
  }
  return out;
}

std::vector<Value> split_from_right(const Text& text, const Text* separator, std::int64_t limit, Budget& budget) {
  if (limit < 0) return split(text, separator, limit, budget);
  const std::string_view bytes = text.bytes;
  std::vector<Value> out;
  std::size_t end = bytes.size();
  if (separator != nullptr) {
    if (separator->bytes.empty()) throw Failure("split by an empty text");
    const std::size_t width = separator->bytes.size();
    for (; limit != 0 && end >= width; --limit) {
      const std::size_t found = bytes.rfind(separator->bytes, end - width);
      if (found == std::string_view::npos) break;
      budget.step();
      out.push_back(part(text, found + width, end, budget));
      end = found;
    }
    out.push_back(part(text, 0, end, budget));
  } else {
    const auto skip = [&] {
      while (end > 0 && space_before(bytes, end) != 0) end -= space_before(bytes, end);
    };
    for (skip(); end > 0; skip()) {
      budget.step();
      std::size_t begin = end;
      if (limit-- == 0) {
        out.push_back(part(text, 0, end, budget));
        break;
      }
      while (begin > 0 && space_before(bytes, begin) == 0) {
        --begin;
        while ((static_cast<unsigned char>(bytes[begin]) & 0xC0) == 0x80) --begin;
      }
      out.push_back(part(text, begin, end, budget));
      end = begin;
    }
  }
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<Value> split_lines(const Text& text, bool keep_ends, Budget& budget) {
  const std::string_view bytes = text.bytes;
  const auto is_end = [](char32_t p) { return (p >= 10 && p <= 13) || (p >= 0x1C && p <= 0x1E) || p == 0x85 || p == 0x2028 || p == 0x2029; };
  std::vector<Value> out;
  for (std::size_t begin = 0; begin < bytes.size();) {
    budget.step();
    std::size_t end = begin, next = bytes.size();
    for (; end < bytes.size(); end += point_bytes(bytes, end)) {
      if (!is_end(core::decode_utf8(bytes, end).value)) continue;
      next = end + point_bytes(bytes, end) + (bytes.substr(end, 2) == "\r\n" ? 1 : 0);
      break;
    }
    out.push_back(part(text, begin, keep_ends ? next : end, budget));
    begin = next;
  }
  return out;
}

Value replace(const Text& text, const Text& from, const Text& to, std::int64_t limit, Budget& budget) {
  TextBuilder builder(budget);
  const std::string_view bytes = text.bytes;
  std::size_t at = 0;
  if (from.bytes.empty()) {
    for (; limit != 0 && at <= bytes.size(); --limit) {
      budget.step();
      builder.add(to);
      if (at == bytes.size()) return builder.value();
      const std::size_t next = at + point_bytes(bytes, at);
      builder.add(text, at, next);
      at = next;
    }
  } else {
    for (std::size_t found; limit != 0 && (found = bytes.find(from.bytes, at)) != std::string_view::npos; --limit) {
      budget.step();
      builder.add(text, at, found);
      builder.add(to);
      at = found + from.bytes.size();
    }
  }
  if (at < bytes.size()) builder.add(text, at, bytes.size());
  return builder.value();
}

std::int64_t find(const Text& text, std::string_view wanted, bool from_right) {
  const std::string_view bytes = text.bytes;
  const std::size_t found = from_right ? bytes.rfind(wanted) : bytes.find(wanted);
  return found == std::string_view::npos ? -1 : static_cast<std::int64_t>(count_points(bytes.substr(0, found)));
}

std::int64_t occurrences(const Text& text, std::string_view wanted) {
  if (wanted.empty()) return static_cast<std::int64_t>(count_points(text.bytes)) + 1;
  std::int64_t count = 0;
  for (std::size_t at = 0; (at = text.bytes.find(wanted, at)) != std::string::npos; at += wanted.size()) ++count;
  return count;
}

Value join(const Text& separator, const std::vector<Value>& items, Budget& budget) {
  TextBuilder builder(budget);
  for (std::size_t i = 0; i < items.size(); ++i) {
    budget.step();
    if (i > 0) builder.add(separator);
    builder.add(items[i].as_text());
  }
  return builder.value();
}

}  // namespace pgtrain::engine::templates
