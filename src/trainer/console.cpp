// console.cpp: printing of messages for a person.
#include "trainer/console.hpp"

#include <signal.h>

#include <cstdint>
#include <cstdio>
#include <map>
#include <utility>

#include "trainer/report.hpp"

namespace pgtrain::trainer {

using namespace protocol;

namespace {

volatile sig_atomic_t is_interrupted = 0;

void on_interrupt(int) { is_interrupted = 1; }

class Printer {
 public:
  void operator()(const up::Hello&) {}
  void operator()(const up::Heartbeat&) {}
  void operator()(const up::Plan& plan) {
    std::printf("plan: %llu parameters, %s at most on %s, %s, %llu tokens a step\n", static_cast<unsigned long long>(plan.parameters),
                show_bytes(plan.peak_bytes).c_str(), plan.device.c_str(), plan.precision.c_str(),
                static_cast<unsigned long long>(plan.tokens_per_step));
  }
  void operator()(const up::Data& data) {
    std::printf("data: %llu samples, %llu held out, %llu tokens of which %llu are learned, %lld steps\n", static_cast<unsigned long long>(data.samples),
                static_cast<unsigned long long>(data.held_out_samples), static_cast<unsigned long long>(data.tokens),
                static_cast<unsigned long long>(data.learned_tokens), static_cast<long long>(data.steps));
  }
  // Of several answers the first that has not ended is shown as it is written; what the others say meanwhile is kept.
  void operator()(const up::Piece& piece) {
    Answer& heard = answers_[piece.prompt];
    heard.text += piece.text, heard.end_reason = piece.end_reason, heard.tokens = piece.tokens;
    for (auto shown = answers_.begin(); shown != answers_.end() && shown->first == first_; shown = answers_.erase(shown), ++first_) {
      std::printf("%s", std::exchange(shown->second.text, {}).c_str());
      if (shown->second.end_reason.empty()) return;
      std::printf("\n(%s, %u tokens)\n", shown->second.end_reason.c_str(), shown->second.tokens);
    }
  }
  void operator()(const up::Description& found) { std::printf("%s\n", found.json.c_str()); }
  void operator()(const up::Speed& found) {
    std::printf("speed: %.4f s a step, %.4f s an evaluated micro-batch, tried with %u layers\n", found.step_seconds, found.evaluation_seconds, found.layers);
  }
  void operator()(const up::Task& task) { std::printf("%s %s\n", task.name.c_str(), name_of(task.state)); }
  void operator()(const up::Progress& now) {
    std::printf("step %lld of %lld: loss %.4f, learning rate %.3g, gradient %.3g, %.0f tokens/s\n", static_cast<long long>(now.step),
                static_cast<long long>(now.steps), now.loss, now.learning_rate, now.gradient_norm, now.tokens_per_second);
  }
  void operator()(const up::Metric& metric) {
    std::printf("%s at step %lld: %g\n", metric.name.c_str(), static_cast<long long>(metric.step), metric.value);
  }
  void operator()(const up::Evaluation& found) {
    std::printf("evaluation %s, step %lld: loss %.4f\n", name_of(found.phase), static_cast<long long>(found.step), found.loss);
  }
  void operator()(const up::Sample& sample) { std::printf("%s%s\n", sample.prompt.c_str(), sample.text.c_str()); }
  void operator()(const up::File& file) {
    std::printf("%s %s: %s, sha256 %s\n", name_of(file.kind), file.name.c_str(), show_bytes(file.bytes).c_str(), file.sha256.c_str());
  }
  void operator()(const up::Log& log) { std::printf("%s: %s\n", name_of(log.level), log.text.c_str()); }
  void operator()(const up::Failed& failed) {
    std::fprintf(stderr, "failed (%s): %s\n", name_of(failed.code), failed.message.c_str());
    if (!failed.detail.empty()) std::fprintf(stderr, "  detail: %s\n", failed.detail.c_str());
    if (!failed.hint.empty()) std::fprintf(stderr, "  hint: %s\n", failed.hint.c_str());
  }
  void operator()(const up::Done& done) {
    std::printf("%s: %lld steps, %llu tokens", name_of(done.status), static_cast<long long>(done.steps),
                static_cast<unsigned long long>(done.tokens));
    if (done.seconds > 0) std::printf(", %.1f s, %.0f tokens/s", done.seconds, done.tokens_per_second);
    if (!std::isnan(done.loss_before)) std::printf(", held-out loss %.4f -> %.4f", done.loss_before, done.loss_after);
    if (done.peak_bytes > 0) std::printf(", %s at most", show_bytes(done.peak_bytes).c_str());
    std::printf("\n");
  }

 private:
  struct Answer {
    std::string text, end_reason;
    std::uint32_t tokens = 0;
  };
  std::map<std::uint32_t, Answer> answers_;  // from first_ on
  std::uint32_t first_ = 0;
};

}  // namespace

Console::Console() {
  signal(SIGINT, on_interrupt);
  signal(SIGTERM, on_interrupt);
}

void Console::send(const UpMessage& message) {
  static Printer printer;
  std::visit(printer, message);
  std::fflush(stdout);
}

void Console::announce(const up::File& file) { send(file); }

Stop Console::stop_requested() { return is_interrupted ? Stop::Pause : Stop::None; }

}  // namespace pgtrain::trainer
