#include "common/stock.h"

#include <torch/csrc/stable/ops.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <list>
#include <mutex>
#include <new>

#include "common/scalar.h"

namespace dgm {
namespace {

constexpr int64_t kLarge = int64_t{4} << 20;
constexpr int64_t kPage = int64_t{2} << 20;

int64_t limit_bytes() {
  const char* mebibytes = std::getenv("DGM_FAST_STOCK_MIB");
  return std::max<int64_t>(0, mebibytes ? std::atoll(mebibytes) : 1024) << 20;
}

class Stock {
 public:
  void* take(int64_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {
        if (block->bytes != bytes) continue;
        void* data = block->data;
        held_ -= bytes;
        blocks_.erase(block);
        return data;
      }
    }

    void* data = std::aligned_alloc(kPage, bytes);
    if (data == nullptr) throw std::bad_alloc();
#if defined(__linux__)
    madvise(data, bytes, MADV_HUGEPAGE);
#endif
    return data;
  }

  void give(void* data, int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    blocks_.push_back({data, bytes});
    held_ += bytes;
    // The block longest unused goes first: its size may never be asked for again.
    while (!blocks_.empty() && held_ > limit_) {
      std::free(blocks_.front().data);
      held_ -= blocks_.front().bytes;
      blocks_.pop_front();
    }
  }

 private:
  struct Block {
    void* data;
    int64_t bytes;
  };

  std::mutex mutex_;
  std::list<Block> blocks_;
  int64_t held_ = 0;
  const int64_t limit_ = limit_bytes();
};

Stock& stock() {
  // Never destroyed: tensors may be freed after static objects are.
  static Stock* const instance = new Stock;
  return *instance;
}

}  // namespace

bool is_large(const torch::stable::Tensor& t) {
  return t.numel() * bytes_of(t.scalar_type()) >= kLarge;
}

torch::stable::Tensor empty_matrix(
    int64_t rows, int64_t columns, torch::headeronly::ScalarType dtype) {
  const int64_t bytes = rows * columns * bytes_of(dtype);
  if (bytes < kLarge) return torch::stable::empty({rows, columns}, dtype);

  const int64_t whole = (bytes + kPage - 1) / kPage * kPage;
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  return torch::stable::from_blob(
      stock().take(whole), {rows, columns}, {columns, 1}, cpu, dtype,
      [whole](void* data) { stock().give(data, whole); });
}

}  // namespace dgm
