// What a worker writes of a trainer that says more between two writes than fits: never the newest step or an evaluation is lost.
#include "pg/worker/relay.hpp"

#include <gtest/gtest.h>

namespace pgtrain::pg::worker {
namespace {

protocol::up::Progress progress(int64_t step) {
  protocol::up::Progress message{};
  message.step = step;
  return message;
}

size_t count(const std::string &text, const std::string &part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++found;
  return found;
}

TEST(Relay, a_full_batch_keeps_evaluations_and_the_last_step) {
  Relay relay(1);
  for (int64_t step = 1; step <= 600; ++step) {
    relay.add(progress(step));
    if (step == 500 || step == 599) relay.add(protocol::up::Evaluation{protocol::EvaluationPhase::During, step, 2.5, 100});
  }
  Batch batch = relay.take();
  EXPECT_EQ(count(batch.metrics, "held_out_loss"), 2u);
  EXPECT_EQ(count(batch.metrics, "\"step\":600,"), 1u);
  EXPECT_EQ(count(batch.metrics, "\"loss\""), 500u);
  EXPECT_NE(batch.events.find("\"count\":100"), std::string::npos) << batch.events;
  EXPECT_TRUE(relay.is_empty());
}

TEST(Relay, other_metrics_do_not_crowd_progress_out) {
  Relay relay(1);
  for (int64_t step = 1; step <= 600; ++step) relay.add(protocol::up::Metric{step, "speed", 1.0});
  relay.add(progress(601));
  relay.add(progress(602));
  const Batch batch = relay.take();
  EXPECT_EQ(count(batch.metrics, "\"step\":602,"), 1u);
  EXPECT_EQ(count(batch.metrics, "speed"), 500u);
}

}  // namespace
}  // namespace pgtrain::pg::worker
