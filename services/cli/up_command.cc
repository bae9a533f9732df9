// gantry up: starts everything, waits until it serves, and says how to call it.
//
// The parent forks the supervisor while it has neither threads nor gRPC, then watches the processes come up, makes the
// first tenant and key as soon as billing is there (the worker still loads meanwhile), and finally asks the public
// endpoint with the real key: what `up` reports as serving has served.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/bootstrap.h"
#include "services/cli/command.h"
#include "services/cli/http_call.h"
#include "services/cli/installation.h"
#include "services/cli/running_state.h"
#include "services/cli/supervisor.h"
#include "services/common/lifecycle.h"
#include "services/common/log.h"
#include "services/common/secret.h"

namespace gantry::cli {
namespace {

constexpr absl::Duration kLookEvery = absl::Milliseconds(20);
constexpr absl::Duration kStatusTimeout = absl::Milliseconds(500);
constexpr absl::Duration kBootstrapDeadline = absl::Seconds(5);
constexpr absl::Duration kFirstProgress = absl::Seconds(3);
constexpr absl::Duration kNextProgress = absl::Seconds(5);

struct UpOptions {
  InstallationOptions installation;
  bool detach = false;
  uint32_t timeout_s = 60;
};

// Signals only leave a note: everything else happens in the loops below.
std::atomic<int> g_signal{0};
void NoteSignal(int signal_number) {
  g_signal.store(signal_number);
}
void NoteSignals() {
  struct sigaction action {};
  action.sa_handler = NoteSignal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

// The supervisor as its parent sees it.
class SupervisorChild {
 public:
  static absl::StatusOr<SupervisorChild> Fork(const DataDir& data_dir, const SupervisorOptions& plan, bool detach) {
    int pipe_fds[2];
    if (pipe2(pipe_fds, O_CLOEXEC) != 0) {
      return absl::ResourceExhaustedError(absl::StrCat("cannot make a pipe: ", std::strerror(errno)));
    }
    const std::string log = data_dir.root() + "/log/supervisor.log";
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid < 0) return absl::ResourceExhaustedError(absl::StrCat("cannot fork: ", std::strerror(errno)));
    if (pid == 0) {
      close(pipe_fds[0]);
      setsid();
      if (!detach) {
        // Attached, it goes when its terminal's process goes, however that ends.
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != parent) _exit(1);
      }
      const int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
      const int log_fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
      dup2(null_fd, 0);
      dup2(log_fd >= 0 ? log_fd : null_fd, 1);
      dup2(log_fd >= 0 ? log_fd : null_fd, 2);
      InitLog("supervisor");
      const absl::Status status = RunSupervisor(data_dir, plan, [] {});
      const std::string message(status.message());
      // A parent that has gone already cannot be told.
      [[maybe_unused]] const ssize_t written = write(pipe_fds[1], message.data(), message.size());
      _exit(status.ok() ? 0 : 1);
    }
    close(pipe_fds[1]);
    fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK);
    return SupervisorChild(pid, pipe_fds[0]);
  }

  pid_t pid() const { return pid_; }

  bool Ended() {
    int wait_status = 0;
    if (!ended_ && waitpid(pid_, &wait_status, WNOHANG) == pid_) Reaped(wait_status);
    return ended_;
  }
  // Why it has ended by itself; empty when it was asked to, or has not ended.
  const std::string& error() const { return error_; }

  // Asks it to stop everything and waits until it has. It may have been stopping already, for reasons of its own.
  void Stop() {
    if (ended_) return;
    kill(pid_, SIGTERM);
    int wait_status = 0;
    while (waitpid(pid_, &wait_status, 0) < 0 && errno == EINTR) {
    }
    Reaped(wait_status);
  }

 private:
  SupervisorChild(pid_t pid, int pipe_fd) : pid_(pid), pipe_fd_(pipe_fd) {}
  void Reaped(int wait_status) {
    ended_ = true;
    char text[4096];
    for (ssize_t n; (n = read(pipe_fd_, text, sizeof(text))) > 0;) error_.append(text, static_cast<size_t>(n));
    if (error_.empty() && WIFSIGNALED(wait_status)) {
      error_ = absl::StrCat("the supervisor was killed by signal ", WTERMSIG(wait_status));
    }
  }
  pid_t pid_;
  int pipe_fd_;  // what it says when it ends in an error; open as long as the program runs
  bool ended_ = false;
  std::string error_;
};

// What stands between now and serving, for people.
std::string WaitingFor(const DataDir& data_dir, const std::vector<std::string>& names) {
  std::vector<std::string> parts;
  const absl::StatusOr<RunningState> state = ReadRunningState(data_dir);
  for (const std::string& name : names) {
    std::string part = name;
    if (state.ok() && state->processes.count(name) > 0 && state->processes.at(name).starts > 1) {
      absl::StrAppend(&part, " (ended ", state->processes.at(name).starts - 1, " times, last with ",
                      state->processes.at(name).last_exit, ": ", LastLogLine(data_dir.log_file(name)), ")");
    }
    parts.push_back(part);
  }
  return absl::StrJoin(parts, ", ");
}

// One start, from the fork to the moment when it serves.
class Startup {
 public:
  Startup(const DataDir& data_dir, const SupervisorOptions& plan, SupervisorChild& supervisor,
          const Invocation& invocation, absl::Duration timeout)
      : data_dir_(data_dir),
        plan_(plan),
        supervisor_(supervisor),
        invocation_(invocation),
        deadline_(absl::Now() + timeout),
        timeout_(timeout),
        progress_at_(absl::Now() + kFirstProgress) {}

  // CANCELLED: a signal came. Other errors: why it does not serve.
  absl::StatusOr<BootstrapResult> Await() {
    std::vector<std::pair<std::string, ProcessClient>> missing;
    for (const std::string& name : ProcessNames()) {
      GANTRY_ASSIGN_OR_RETURN(ProcessClient client, ProcessClient::Create(data_dir_, name));
      missing.emplace_back(name, std::move(client));
    }
    BootstrapResult bootstrap;
    while (!missing.empty()) {
      std::vector<std::string> names;
      for (const auto& [name, client] : missing) names.push_back(name);
      GANTRY_RETURN_IF_ERROR(Look([&] { return WaitingFor(data_dir_, names); }));
      for (auto it = missing.begin(); it != missing.end();) {
        const absl::StatusOr<v1::StatusResponse> status = it->second.Status(kStatusTimeout);
        if (!status.ok() || !status->ready()) {
          ++it;
          continue;
        }
        if (it->first == "billing") {
          absl::StatusOr<BootstrapResult> result = TryBootstrap();
          // Gone again. Either it comes back, and all steps can be repeated, or the next look says why it will not.
          if (absl::IsUnavailable(result.status()) || absl::IsDeadlineExceeded(result.status())) break;
          GANTRY_ASSIGN_OR_RETURN(bootstrap, std::move(result));
        }
        it = missing.erase(it);
      }
    }
    GANTRY_RETURN_IF_ERROR(AwaitEndpoint(bootstrap.created_key));
    return bootstrap;
  }

 private:
  absl::StatusOr<BootstrapResult> TryBootstrap() const {
    const absl::StatusOr<AdminClient> client =
        AdminClient::Connect(data_dir_, {.deadline = kBootstrapDeadline, .wait_for_billing = false});
    if (!client.ok()) return absl::UnavailableError(client.status().message());
    return Bootstrap(*client, data_dir_);
  }

  // Called before each look: waits a little and ends what has no prospect.
  absl::Status Look(const std::function<std::string()>& waiting_for) {
    if (looked_) absl::SleepFor(kLookEvery);
    looked_ = true;
    if (g_signal.load() != 0) return absl::CancelledError("stopped while starting");
    if (supervisor_.Ended()) return absl::FailedPreconditionError("everything was stopped while it started");
    if (absl::Now() >= deadline_) {
      return absl::DeadlineExceededError(absl::StrCat("not ready within ", absl::FormatDuration(timeout_), ": ",
                                                      waiting_for(), "; logs are in ", data_dir_.root(),
                                                      "/log; give a large model more time with --timeout S"));
    }
    if (absl::Now() >= progress_at_) {
      progress_at_ = absl::Now() + kNextProgress;
      *invocation_.err << "waiting for " << waiting_for() << std::endl;
    }
    return absl::OkStatus();
  }

  // Until the public listener takes the key and offers the model.
  absl::Status AwaitEndpoint(bool key_is_new) {
    HttpCallOptions call;
    call.endpoint = plan_.endpoint;
    call.path = "/v1/models";
    call.timeout = absl::Seconds(2);
    GANTRY_ASSIGN_OR_RETURN(const Secret key, ReadSecretFile(DemoKeyFile(data_dir_)));
    call.key = std::string(key.Reveal());  // it goes into the request's header
    std::string body;
    while (true) {
      GANTRY_RETURN_IF_ERROR(Look([&] { return absl::StrCat("the endpoint to offer ", plan_.model, ": ", body); }));
      body.clear();
      const absl::StatusOr<int> status =
          HttpCall(call, [&body](int, absl::string_view piece) { body.append(piece.data(), piece.size()); });
      // A revoked or expired demo key is the operator's decision and no fault of the start.
      if (status.ok() && (*status == 401 || *status == 403) && !key_is_new) return absl::OkStatus();
      if (status.ok() && *status == 200 && body.find(absl::StrCat("\"", plan_.model, "\"")) != std::string::npos) {
        return absl::OkStatus();
      }
      if (!status.ok()) body = std::string(status.status().message());
    }
  }

  const DataDir& data_dir_;
  const SupervisorOptions& plan_;
  SupervisorChild& supervisor_;
  const Invocation& invocation_;
  const absl::Time deadline_;
  const absl::Duration timeout_;
  absl::Time progress_at_;
  bool looked_ = false;
};

std::string Greeting(const DataDir& data_dir, const SupervisorOptions& plan, const BootstrapResult& bootstrap,
                     absl::Duration took) {
  const std::string key_file = DemoKeyFile(data_dir);
  const std::string key = bootstrap.created_key ? bootstrap.key : absl::StrCat("$(cat ", key_file, ")");
  std::string text = absl::StrFormat("Gantry %s serves %s (ready after %.1f s)\n\n", BuildVersion(), plan.model,
                                     absl::ToDoubleSeconds(took));
  absl::StrAppend(&text, "  endpoint  ", plan.endpoint, "/v1\n");
  if (bootstrap.created_key) {
    absl::StrAppend(&text, "  key       ", bootstrap.key, "   (tenant ", kDemoTenant, "; kept in ", key_file, ")\n");
  } else {
    absl::StrAppend(&text, "  key       in ", key_file, " (tenant ", kDemoTenant, ")\n");
  }
  absl::StrAppend(&text, "  data      ", data_dir.root(), "\n\nTry it:\n\n", "  curl -N ", plan.endpoint,
                  "/v1/chat/completions -H \"Authorization: Bearer ", key,
                  "\" -H \"Content-Type: application/json\" -d '{\"model\":\"", plan.model,
                  "\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"What does the word river "
                  "mean?\"}]}'\n\n",
                  "  ", ProgramDirectory(), "/gantry usage --data-dir ", data_dir.root(), " --tenant ", kDemoTenant,
                  "\n");
  return text;
}

absl::StatusOr<int> Up(const UpOptions& options, const Invocation& invocation) {
  const absl::Time begin = absl::Now();
  const DataDir data_dir = invocation.data_dir();
  if (const int holder = LockHolder(data_dir); holder != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("gantry already runs on ", data_dir.root(), " with pid ", holder,
                     "; `gantry status` shows it, `gantry down` stops it, another --data-dir starts a second one"));
  }
  GANTRY_RETURN_IF_ERROR(data_dir.Prepare());
  GANTRY_ASSIGN_OR_RETURN(const SupervisorOptions plan, PlanInstallation(data_dir, options.installation));
  GANTRY_RETURN_IF_ERROR(CheckPorts(options.installation.port));

  NoteSignals();
  GANTRY_ASSIGN_OR_RETURN(SupervisorChild supervisor, SupervisorChild::Fork(data_dir, plan, options.detach));
  Startup startup(data_dir, plan, supervisor, invocation, absl::Seconds(options.timeout_s));
  const absl::StatusOr<BootstrapResult> bootstrap = startup.Await();
  if (!bootstrap.ok()) {
    // Whatever went wrong here, a process that refused its configuration is the cause and this the consequence.
    supervisor.Stop();
    return supervisor.error().empty() ? bootstrap.status() : absl::FailedPreconditionError(supervisor.error());
  }
  *invocation.out << Greeting(data_dir, plan, *bootstrap, absl::Now() - begin) << std::flush;
  if (options.detach) return 0;

  *invocation.out << "\nCtrl-C stops it.\n" << std::flush;
  for (bool asked = false; !supervisor.Ended();) {
    if (g_signal.load() != 0 && !asked) {
      asked = true;
      *invocation.err << "stopping" << std::endl;
      kill(supervisor.pid(), SIGTERM);
    }
    absl::SleepFor(absl::Milliseconds(50));
  }
  if (!supervisor.error().empty()) return absl::InternalError(supervisor.error());
  return 0;
}

}  // namespace

void AddUpCommand(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<UpOptions>();
  CLI::App* up = AddCommand(app, invocation, "up", "start everything on this machine and print how to call it",
                            "gantry up                                   # stays; Ctrl-C stops\n"
                            "gantry up --detach                          # returns when it serves\n"
                            "gantry up --detach --data-dir /srv/gantry --port 9000 --model /srv/models/qwen",
                            [=, &invocation] { return Up(*options, invocation); });
  up->add_flag("--detach", options->detach, "return once it serves; `gantry down` stops it");
  up->add_option("--port", options->installation.port,
                 absl::StrCat("P: requests at 127.0.0.1:P, metrics at P+1 to P+4; default: ", kDefaultPort))
      ->type_name("P")
      ->check(CLI::Range(1, 65535 - kPortCount + 1));
  up->add_option("--model", options->installation.model, "model directory; default: the demo model")->type_name("DIR");
  up->add_option("--model-name", options->installation.model_name,
                 "what clients ask for; default: gantry-demo, with --model the directory's name")
      ->type_name("NAME");
  up->add_option("--timeout", options->timeout_s, "longest wait until it serves, seconds; default: 60")->type_name("S");
}

}  // namespace gantry::cli
