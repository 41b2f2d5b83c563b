// A thread that runs one task after the other. It has the priority and the cores of whoever makes it.
#pragma once

#include <condition_variable>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

namespace tdmpc {

class Thread {
public:
    Thread() : thread_([this] { work(); }) {}
    ~Thread() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            ends_ = true;
        }
        changed_.notify_one();
        thread_.join();
    }
    Thread(const Thread&) = delete;
    Thread& operator=(const Thread&) = delete;

    // Only to be called when the task before it has ended.
    std::future<void> run(std::function<void()> task) {
        std::future<void> result;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            task_ = std::packaged_task<void()>(std::move(task));
            result = task_.get_future();
        }
        changed_.notify_one();
        return result;
    }

private:
    void work() {
        for (;;) {
            std::unique_lock<std::mutex> lock(mutex_);
            changed_.wait(lock, [this] { return ends_ || task_.valid(); });
            if (ends_) return;
            auto task = std::move(task_);
            lock.unlock();
            task();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::packaged_task<void()> task_;
    bool ends_ = false;
    std::thread thread_;  // last: what it uses is there before it begins
};

}  // namespace tdmpc
