// See relay.hpp. Standard library and protocol only.
#include "pg/worker/relay.hpp"

#include <charconv>
#include <cmath>

namespace pgtrain::pg::worker {
namespace {

constexpr size_t most_metrics = 500;  // rows of one batch
constexpr size_t most_others = 200;

std::string field(const char *name, const std::string &value) { return std::string("\"") + name + "\":" + value; }

std::string array_of(std::vector<std::string> &items) {
  if (items.empty()) return {};
  std::string text = "[";
  for (const std::string &item : items) text += (text.size() > 1 ? "," : "") + item;
  items.clear();
  return text + "]";
}

std::string metric_of(const protocol::up::Progress &m) {
  return "{" + field("step", std::to_string(m.step)) + "," + field("loss", json_number(m.loss)) + "," +
         field("learning_rate", json_number(m.learning_rate)) + "," + field("gradient_norm", json_number(m.gradient_norm)) + "," +
         field("tokens", std::to_string(m.tokens)) + "," + field("tokens_per_second", json_number(m.tokens_per_second)) + "," +
         field("accuracy", json_number(m.accuracy)) + "}";
}

}  // namespace

std::string json_text(const std::string &text) {
  std::string result = "\"";
  for (const char c : text) {
    switch (c) {
      case '"': result += "\\\""; break;
      case '\\': result += "\\\\"; break;
      case '\n': result += "\\n"; break;
      case '\r': result += "\\r"; break;
      case '\t': result += "\\t"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          static constexpr char digits[] = "0123456789abcdef";
          result += std::string("\\u00") + digits[(c >> 4) & 15] + digits[c & 15];
        } else {
          result += c;
        }
    }
  }
  return result + "\"";
}

std::string json_number(double number) {
  if (!std::isfinite(number)) return "null";
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, number);
  return std::string(text, end.ptr);
}

void Relay::add(const protocol::up::Progress &message) {
  last_ = message;
  has_progress_ = true;
  if (metrics_.size() >= most_metrics && last_at_ >= 0) {
    metrics_[static_cast<size_t>(last_at_)] = metric_of(message);
    ++left_out_;
    return;
  }
  last_at_ = static_cast<int64_t>(metrics_.size());
  metrics_.push_back(metric_of(message));
}

void Relay::add(const protocol::up::Metric &message) {
  if (metrics_.size() >= most_metrics) {
    ++left_out_;
    return;
  }
  metrics_.push_back("{" + field("step", std::to_string(message.step)) + ",\"extra\":{" +
                     json_text(message.name) + ":" + json_number(message.value) + "}}");
}

void Relay::add(const protocol::up::Task &message) {
  if (tasks_.size() >= most_others) return;
  tasks_.push_back("{" + field("message_id", json_text(std::to_string(attempt_) + "/" + std::to_string(++task_number_))) + "," +
                   field("task", json_text(message.name)) + "," + field("state", json_text(protocol::name_of(message.state))) + "}");
}

void Relay::add(const protocol::up::Evaluation &message) {
  // Each number with what it was measured on.
  if (message.phase != protocol::EvaluationPhase::During)
    (message.phase == protocol::EvaluationPhase::Before ? evaluation_before_ : evaluation_after_) =
        "{" + field("loss", json_number(message.loss)) + "," + field("token_accuracy", json_number(message.accuracy)) + "," +
        field("tokens", std::to_string(message.tokens)) + "," + field("samples", std::to_string(message.samples)) + "}";
  // Few and wanted: a batch that is full of steps has room for them.
  if (metrics_.size() < most_metrics + most_others)
    metrics_.push_back("{" + field("step", std::to_string(message.step)) + "," + field("held_out_loss", json_number(message.loss)) + "," +
                       field("held_out_accuracy", json_number(message.accuracy)) + "}");
}

void Relay::add(const protocol::up::Sample &message) {
  if (samples_.size() < most_others)
    samples_.push_back("{" + field("step", std::to_string(message.step)) + "," + field("prompt", json_text(message.prompt)) + "," +
                       field("content", json_text(message.text)) + "}");
}

void Relay::add(const protocol::up::Log &message) {
  if (message.level != protocol::LogLevel::Debug) add_event("log", "{" + field("level", json_text(protocol::name_of(message.level))) + "," + field("text", json_text(message.text)) + "}");
}

void Relay::add_event(const std::string &status, const std::string &json_object) {
  if (events_.size() < most_others) events_.push_back("{" + field("status", json_text(status)) + "," + field("data", json_object) + "}");
}

bool Relay::is_empty() const {
  return !has_progress_ && metrics_.empty() && tasks_.empty() && samples_.empty() && events_.empty() && evaluation_before_.empty() &&
         evaluation_after_.empty();
}

Batch Relay::take() {
  Batch batch;
  if (has_progress_) {
    batch.progress = "{" + field("step", std::to_string(last_.step)) + "," + field("loss", json_number(last_.loss)) + "," +
                     field("learning_rate", json_number(last_.learning_rate)) + "," + field("tokens", std::to_string(last_.tokens)) + "," +
                     field("tokens_per_second", json_number(last_.tokens_per_second)) + "," +
                     field("peak_bytes", std::to_string(last_.peak_bytes)) + "," +
                     field("seconds_more", json_number(last_.seconds - seconds_written_)) + "}";
    seconds_written_ = last_.seconds;
    has_progress_ = false;
  }
  if (left_out_ > 0) {
    add_event("metrics_left_out", "{" + field("count", std::to_string(left_out_)) + "}");
    left_out_ = 0;
  }
  batch.metrics = array_of(metrics_);
  last_at_ = -1;
  batch.tasks = array_of(tasks_);
  batch.samples = array_of(samples_);
  batch.events = array_of(events_);
  if (!evaluation_before_.empty() || !evaluation_after_.empty())
    batch.evaluations = "{" + field("before", evaluation_before_.empty() ? "null" : evaluation_before_) + "," +
                        field("after", evaluation_after_.empty() ? "null" : evaluation_after_) + "}";
  evaluation_before_.clear();
  evaluation_after_.clear();
  return batch;
}

}  // namespace pgtrain::pg::worker
