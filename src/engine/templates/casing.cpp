// Upper and lower case as Python has them: code points that become several, and the sigma at the end of a word.
#include <algorithm>
#include <iterator>

#include "engine/core/utf8.hpp"
#include "engine/templates/text.hpp"
#include "engine/templates/unicode_case.hpp"

namespace pgtrain::engine::templates {
namespace {

template <std::size_t N>
bool is_in(const PointRange (&table)[N], char32_t point) {
  const auto* found = std::upper_bound(std::begin(table), std::end(table), point, [](char32_t p, const PointRange& range) { return p < range.first; });
  return found != std::begin(table) && point <= (found - 1)->last;
}

template <std::size_t N, std::size_t M>
void append_changed(const CaseRun (&runs)[N], const LongCase (&longer)[M], char32_t point, std::string& out) {
  const auto* several = std::lower_bound(std::begin(longer), std::end(longer), point, [](const LongCase& entry, char32_t p) { return entry.from < p; });
  if (several != std::end(longer) && several->from == point) {
    for (const char32_t* p = several->to; *p != 0; ++p) core::append_utf8(out, *p);
    return;
  }
  const auto* after = std::upper_bound(std::begin(runs), std::end(runs), point, [](char32_t p, const CaseRun& run) { return p < run.first; });
  if (after != std::begin(runs)) {
    const CaseRun& run = *(after - 1);
    if (point <= run.last && (point - run.first) % run.stride == 0) point += run.difference;
  }
  core::append_utf8(out, point);
}

bool is_cased(char32_t point) { return is_in(kCased, point); }
constexpr char32_t kSigma = 0x3A3;

// A sigma after a letter and before none, apostrophes and the like aside.
bool is_final_sigma(std::string_view bytes, std::size_t at) {
  std::size_t before = at, after = at + 2;
  const auto decode = [&](std::size_t place) { return core::decode_utf8(bytes, place).value; };
  bool follows_letter = false;
  while (before > 0) {
    --before;
    while ((static_cast<unsigned char>(bytes[before]) & 0xC0) == 0x80) --before;
    if (is_in(kCaseIgnored, decode(before))) continue;
    follows_letter = is_cased(decode(before));
    break;
  }
  if (!follows_letter) return false;
  while (after < bytes.size() && is_in(kCaseIgnored, decode(after))) after += core::decode_utf8(bytes, after).bytes;
  return after == bytes.size() || !is_cased(decode(after));
}

// jinja2's filter title: what follows one of these begins a word.
bool parts_words(char32_t p) { return is_space(p) || p == '-' || p == '(' || p == '{' || p == '[' || p == '<'; }

}  // namespace

bool is_printable(char32_t point) { return !is_in(kUnprintable, point); }

Value cased(const Text& text, Casing casing, Budget& budget) {
  TextBuilder builder(budget);
  const std::string_view bytes = text.bytes;
  bool starts_word = true;
  // The filter cuts the text into words first, so that a final sigma is one at the end of a cut.
  std::size_t cut_begin = 0, cut_end = bytes.size();
  for (std::size_t at = 0; at < bytes.size();) {
    budget.step();
    const core::CodePoint point = core::decode_utf8(bytes, at);
    std::string out;
    if (casing == Casing::TitleFilter && starts_word) {
      cut_begin = at + point.bytes;
      for (cut_end = at; cut_end < bytes.size() && !parts_words(core::decode_utf8(bytes, cut_end).value);) cut_end += core::decode_utf8(bytes, cut_end).bytes;
    }
    const auto lower = [&] {
      const bool is_filter = casing == Casing::TitleFilter;
      const std::string_view around = is_filter ? bytes.substr(cut_begin, cut_end - cut_begin) : bytes;
      if (point.value == kSigma) core::append_utf8(out, is_final_sigma(around, is_filter ? at - cut_begin : at) ? 0x3C2 : 0x3C3);
      else append_changed(kLowerRuns, kLowerLong, point.value, out);
    };
    switch (casing) {
      case Casing::Upper: append_changed(kUpperRuns, kUpperLong, point.value, out); break;
      case Casing::Lower: lower(); break;
      case Casing::Title:
        if (starts_word) append_changed(kTitleRuns, kTitleLong, point.value, out);
        else lower();
        starts_word = !is_cased(point.value);
        break;
      case Casing::Capitalized:
        if (starts_word) append_changed(kTitleRuns, kTitleLong, point.value, out);
        else lower();
        starts_word = false;
        break;
      case Casing::TitleFilter:
        if (parts_words(point.value)) {
          core::append_utf8(out, point.value);
          starts_word = true;
          break;
        }
        if (starts_word) append_changed(kUpperRuns, kUpperLong, point.value, out);
        else lower();
        starts_word = false;
        break;
    }
    builder.add(out, is_data_at(text, at));
    at += point.bytes;
  }
  return builder.value();
}

bool has_only_case(std::string_view bytes, bool upper) {
  bool has_any = false;
  for (std::size_t at = 0; at < bytes.size();) {
    const core::CodePoint point = core::decode_utf8(bytes, at);
    at += point.bytes;
    if (!is_cased(point.value)) continue;
    if (point.value >= 0x80) unsupported("the case of letters outside of ASCII in a test");
    if ((point.value >= 'a') == upper) return false;
    has_any = true;
  }
  return has_any;
}

}  // namespace pgtrain::engine::templates
