// message.cpp: encoder and decoder that follow the field lists of message.hpp, the caps by type, and the names
// of enumerators. Decoding checks every length before it allocates, and allocates at most the payload's size.
#include "protocol/message.hpp"

#include <bit>
#include <type_traits>

#ifndef PGTRAIN_BUILD_ID
#define PGTRAIN_BUILD_ID "0.1.0"
#endif

namespace pgtrain::protocol {

namespace {

// Number of enumerators: values from there on are refused.
template <class Enum>
constexpr uint8_t enumerators = 0;
template <>
constexpr uint8_t enumerators<JobKind> = 7;
template <>
constexpr uint8_t enumerators<PromptKind> = 2;
template <>
constexpr uint8_t enumerators<TaskState> = 3;
template <>
constexpr uint8_t enumerators<EvaluationPhase> = 3;
template <>
constexpr uint8_t enumerators<FileKind> = 2;
template <>
constexpr uint8_t enumerators<LogLevel> = 3;
template <>
constexpr uint8_t enumerators<DoneStatus> = 3;
template <>
constexpr uint8_t enumerators<FailureCode> = 10;

constexpr size_t longest_mark = 3;  // bytes of "…"

class Writer {
 public:
  template <class Value>
  void operator()(const Value& value) {
    if constexpr (std::is_enum_v<Value>) {
      number(static_cast<uint8_t>(value));
    } else if constexpr (std::is_same_v<Value, double>) {
      number(std::bit_cast<uint64_t>(value));
    } else if constexpr (std::is_integral_v<Value>) {
      number(static_cast<std::make_unsigned_t<Value>>(value));
    } else if constexpr (std::is_same_v<Value, std::string>) {
      text(value);
    } else {
      Value::visit(value, *this);
    }
  }

  void operator()(const ConfigPair& pair) {
    text(pair.first);
    text(pair.second);
  }

  template <class Item>
  void operator()(const std::vector<Item>& items) {
    number(static_cast<uint32_t>(items.size()));
    for (const Item& item : items) (*this)(item);
  }

  std::string payload;

 private:
  template <class Unsigned>
  void number(Unsigned value) {
    for (int shift = 8 * (static_cast<int>(sizeof value) - 1); shift >= 0; shift -= 8)
      payload.push_back(static_cast<char>(static_cast<uint64_t>(value) >> shift & 0xff));
  }

  void text(const std::string& value) {
    const std::string clean = is_clean_utf8(value) ? value : clean_utf8(value);
    number(static_cast<uint32_t>(clean.size()));
    payload.append(clean);
  }
};

class Reader {
 public:
  explicit Reader(std::string_view payload) : rest_(payload) {}

  template <class Value>
  void operator()(Value& value) {
    if constexpr (std::is_enum_v<Value>) {
      const auto raw = static_cast<uint8_t>(number(1));
      if (raw >= enumerators<Value>) fail("has the value " + std::to_string(raw) + ", which no enumerator has");
      value = static_cast<Value>(raw);
    } else if constexpr (std::is_same_v<Value, double>) {
      value = std::bit_cast<double>(number(8));
    } else if constexpr (std::is_integral_v<Value>) {
      value = static_cast<Value>(number(sizeof(Value)));
    } else if constexpr (std::is_same_v<Value, std::string>) {
      text(value);
    } else {
      Value::visit(value, *this);
    }
  }

  void operator()(ConfigPair& pair) {
    text(pair.first);
    text(pair.second);
  }

  template <class Item>
  void operator()(std::vector<Item>& items) {
    const uint64_t count = number(4);
    // Every kind of item begins with a text, so it takes at least four bytes: a huge count fails before it allocates.
    if (count > rest_.size() / 4) return fail("lists " + std::to_string(count) + " items, more than its bytes can hold");
    items.clear();
    for (uint64_t i = 0; i < count && error.empty(); ++i) (*this)(items.emplace_back());
  }

  void finish() {
    if (error.empty() && !rest_.empty()) error = std::to_string(rest_.size()) + " bytes are left over after the last field";
  }

  std::string error;

 private:
  uint64_t number(size_t bytes) {
    ++field_;
    if (!error.empty()) return 0;
    if (rest_.size() < bytes) {
      fail("reaches past the end of the payload");
      return 0;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value = value << 8 | static_cast<unsigned char>(rest_[i]);
    rest_.remove_prefix(bytes);
    return value;
  }

  void text(std::string& value) {
    const uint64_t length = number(4);
    if (!error.empty()) return;
    if (length > rest_.size()) return fail("is a text of " + std::to_string(length) + " bytes that reaches past the end of the payload");
    if (!is_clean_utf8(rest_.substr(0, length))) return fail("is not valid UTF-8 text without NUL");
    value.assign(rest_.substr(0, length));
    rest_.remove_prefix(length);
  }

  void fail(const std::string& what) {
    if (error.empty()) error = "field " + std::to_string(field_) + " " + what;
  }

  std::string_view rest_;
  int field_ = 0;
};

// Finds the longest text of a message so that it can be cut.
struct LongestText {
  std::string* found = nullptr;

  template <class Value>
  void operator()(Value& value) {
    if constexpr (std::is_same_v<Value, std::string>) {
      if (found == nullptr || value.size() > found->size()) found = &value;
    }
  }
};

void cut_text(std::string& text, size_t excess) {
  text = clean_utf8(text);
  const size_t drop = excess + longest_mark;
  size_t keep = text.size() > drop ? text.size() - drop : 0;
  while (keep > 0 && (static_cast<unsigned char>(text[keep]) & 0xc0) == 0x80) --keep;
  text.resize(keep);
  text += "…";
}

// Rules beyond the encoding. Returns what is wrong, or an empty text.
std::string check_file(const std::string& name, const std::string& sha256, bool is_sha256_needed) {
  if (!is_safe_file_name(name))
    return "the file name \"" + name + "\" is not a plain name (1 to 128 letters, digits, '.', '_' or '-', no leading dot)";
  if (sha256.empty() && !is_sha256_needed) return {};
  if (!is_sha256_hex(sha256)) return "the sha256 of file \"" + name + "\" is not 64 lower-case hexadecimal digits";
  return {};
}

template <class Message>
std::string check(const Message& message) {
  if constexpr (std::is_same_v<Message, up::File>) return check_file(message.name, message.sha256, true);
  if constexpr (std::is_same_v<Message, down::Ack>) return check_file(message.name, {}, false);
  if constexpr (std::is_same_v<Message, down::Job>) {
    std::vector<InputFile> files = message.model;
    files.insert(files.end(), message.base.begin(), message.base.end());
    files.push_back(message.data);
    files.push_back(message.validation);
    files.push_back(message.resume);
    for (const InputFile& file : files) {
      if (file.name.empty()) continue;
      std::string wrong = check_file(file.name, file.sha256, false);
      if (!wrong.empty()) return wrong;
    }
  }
  return {};
}

template <class Variant, size_t Index = 0>
bool decode_as(const Frame& frame, Variant& message, std::string& error) {
  if constexpr (Index == std::variant_size_v<Variant>) {
    error = "unknown message type";
    return false;
  } else {
    using Message = std::variant_alternative_t<Index, Variant>;
    if (Message::type != frame.type) return decode_as<Variant, Index + 1>(frame, message, error);
    Message decoded;
    Reader reader(frame.payload);
    Message::visit(decoded, reader);
    // Other versions may say more in their Hello; the version, its first field, is all that is needed from them.
    bool is_foreign_hello = false;
    if constexpr (requires { decoded.version; }) {
      is_foreign_hello = frame.payload.size() >= 4 && decoded.version != protocol_version;
    }
    if (!is_foreign_hello) reader.finish();
    error = is_foreign_hello ? std::string() : std::move(reader.error);
    if (error.empty()) error = check(decoded);
    if (!error.empty()) {
      error = std::string("message '") + frame.type + "': " + error;
      return false;
    }
    message = std::move(decoded);
    return true;
  }
}

template <class Variant, size_t Index = 0>
int64_t cap_of(char type) {
  if constexpr (Index == std::variant_size_v<Variant>) {
    return -1;
  } else {
    using Message = std::variant_alternative_t<Index, Variant>;
    return Message::type == type ? Message::cap : cap_of<Variant, Index + 1>(type);
  }
}

template <size_t Count>
const char* label(const char* const (&labels)[Count], size_t value) {
  return value < Count ? labels[value] : "unknown";
}

}  // namespace

int64_t payload_cap(Direction direction, char type) {
  return direction == Direction::Down ? cap_of<DownMessage>(type) : cap_of<UpMessage>(type);
}

template <class Message>
std::string encode(const Message& message) {
  Writer writer;
  Message::visit(message, writer);
  if (writer.payload.size() > Message::cap) {
    if constexpr (std::is_same_v<Message, down::Job>) return {};
    Message shorter = message;
    // Several texts may have to give: each pass cuts the longest one, and every text holds at least the mark.
    for (int pass = 0; pass < 4 && writer.payload.size() > Message::cap; ++pass) {
      LongestText longest;
      Message::visit(shorter, longest);
      if (longest.found == nullptr) break;
      cut_text(*longest.found, writer.payload.size() - Message::cap);
      writer.payload.clear();
      Message::visit(shorter, writer);
    }
  }
  return encode_frame(Message::type, writer.payload);
}

template std::string encode(const down::Hello&);
template std::string encode(const down::Job&);
template std::string encode(const down::Cancel&);
template std::string encode(const down::Pause&);
template std::string encode(const down::Ack&);
template std::string encode(const up::Hello&);
template std::string encode(const up::Plan&);
template std::string encode(const up::Data&);
template std::string encode(const up::Piece&);
template std::string encode(const up::Description&);
template std::string encode(const up::Speed&);
template std::string encode(const up::Task&);
template std::string encode(const up::Progress&);
template std::string encode(const up::Metric&);
template std::string encode(const up::Evaluation&);
template std::string encode(const up::Sample&);
template std::string encode(const up::File&);
template std::string encode(const up::Heartbeat&);
template std::string encode(const up::Log&);
template std::string encode(const up::Failed&);
template std::string encode(const up::Done&);

bool decode(const Frame& frame, DownMessage& message, std::string& error) { return decode_as(frame, message, error); }
bool decode(const Frame& frame, UpMessage& message, std::string& error) { return decode_as(frame, message, error); }

const char* build_id() { return PGTRAIN_BUILD_ID; }

const char* name_of(JobKind kind) { return label({"train", "plan", "generate", "evaluate", "import", "measure", "export"}, static_cast<size_t>(kind)); }
const char* name_of(PromptKind kind) { return label({"text", "messages"}, static_cast<size_t>(kind)); }
const char* name_of(TaskState state) { return label({"started", "finished", "failed"}, static_cast<size_t>(state)); }
const char* name_of(EvaluationPhase phase) { return label({"before", "during", "after"}, static_cast<size_t>(phase)); }
const char* name_of(FileKind kind) { return label({"checkpoint", "artifact"}, static_cast<size_t>(kind)); }
const char* name_of(LogLevel level) { return label({"debug", "info", "warning"}, static_cast<size_t>(level)); }
const char* name_of(DoneStatus status) { return label({"completed", "cancelled", "paused"}, static_cast<size_t>(status)); }
const char* name_of(FailureCode code) {
  return label({"config_invalid", "data_invalid", "out_of_memory", "device_fault", "non_finite_loss", "model_missing", "artifact_invalid",
                "io_error", "protocol_violation", "internal_error"},
               static_cast<size_t>(code));
}

std::string version_mismatch_text(uint32_t ours, uint32_t theirs, std::string_view their_build) {
  return "the other side speaks protocol version " + std::to_string(theirs) + " (build " + clean_utf8(their_build) +
         "), this side speaks version " + std::to_string(ours) +
         ": module and trainer are not of one release; install both again and restart the server";
}

}  // namespace pgtrain::protocol
