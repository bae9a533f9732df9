#include <memory>

#include "billing/people/users.h"
#include "billing/service/admin_call.h"
#include "billing/service/services.h"
#include "gantry/v1/people.grpc.pb.h"

namespace gantry::billing {
namespace {

class UserService final : public v1::UserAdmin::CallbackService {
 public:
  explicit UserService(const Context* context) : context_(context) {}

  grpc::ServerUnaryReactor* CreateUser(grpc::CallbackServerContext* call, const v1::CreateUserRequest* request,
                                       v1::UserToken* response) override {
    return WithToken(call, request, response, request->party_name(), [this, request](Database& db, Change& change) {
      return billing::CreateUser(db, *request, change.caller, context_->pepper, change.now_us);
    });
  }
  grpc::ServerUnaryReactor* RotateUserToken(grpc::CallbackServerContext* call,
                                            const v1::RotateUserTokenRequest* request,
                                            v1::UserToken* response) override {
    return WithToken(call, request, response, HexOf(request->user_id()), [this, request](Database& db, Change& change) {
      return billing::RotateUserToken(db, *request, change.caller, context_->pepper);
    });
  }
  grpc::ServerUnaryReactor* ListUsers(grpc::CallbackServerContext* call, const v1::ListUsersRequest* request,
                                      v1::ListUsersResponse* response) override {
    return Ask(context_, call, request, response,
               [request](Database& db, const Caller&) { return billing::ListUsers(db, *request); });
  }
  grpc::ServerUnaryReactor* SetUserRole(grpc::CallbackServerContext* call, const v1::SetUserRoleRequest* request,
                                        v1::User* response) override {
    return DoOnce(
        context_, call, request, response, HexOf(request->user_id()), v1::UserRole_Name(request->role()),
        [request](Database& db, Change& change) { return billing::SetUserRole(db, *request, change.caller); });
  }
  grpc::ServerUnaryReactor* DisableUser(grpc::CallbackServerContext* call, const v1::DisableUserRequest* request,
                                        v1::User* response) override {
    return DoOnce(context_, call, request, response, HexOf(request->user_id()), "",
                  [request](Database& db, Change& change) {
                    return billing::DisableUser(db, *request, change.caller, change.now_us);
                  });
  }
  grpc::ServerUnaryReactor* WhoAmI(grpc::CallbackServerContext* call, const v1::WhoAmIRequest* request,
                                   v1::WhoAmIResponse* response) override {
    return Ask(context_, call, request, response,
               [](Database& db, const Caller& caller) { return billing::WhoAmI(db, caller); });
  }

 private:
  // The token goes into this answer, after the commit; the stored one has none.
  template <typename Request, typename Run>
  grpc::ServerUnaryReactor* WithToken(grpc::CallbackServerContext* call, const Request* request,
                                      v1::UserToken* response, std::string object, Run run) {
    auto token = std::make_shared<Secret>();
    return DoOnce<Request, v1::UserToken>(
        context_, call, request, response, std::move(object), "",
        [run, token](Database& db, Change& change) -> absl::StatusOr<v1::UserToken> {
          GANTRY_ASSIGN_OR_RETURN(UserWithToken made, run(db, change));
          *token = std::move(made.token);
          v1::UserToken answer;
          *answer.mutable_user() = std::move(made.user);
          return answer;
        },
        [token](v1::UserToken* answer) { answer->set_token(std::string(token->Reveal())); });
  }

  const Context* const context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeUserService(const Context* context) {
  return std::make_unique<UserService>(context);
}

}  // namespace gantry::billing
