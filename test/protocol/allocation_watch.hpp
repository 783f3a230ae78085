// allocation_watch.hpp: the largest single allocation since a test set it to zero.
#pragma once

#include <atomic>
#include <cstddef>

namespace pgtrain::protocol::test {
extern std::atomic<size_t> largest_allocation;
}
