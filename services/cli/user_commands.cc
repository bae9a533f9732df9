// gantry user …: people who act for a party.
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/money.h"
#include "services/cli/table.h"

namespace gantry::cli {
namespace {

using Users = v1::UserAdmin::Stub;

struct UserOptions {
  std::string party, email, name, role = "admin", idempotency_key;
  bool quiet = false, json = false;
};

const std::vector<std::string>& RoleNames() {
  static const std::vector<std::string> names = {"owner", "admin", "billing", "developer", "auditor"};
  return names;
}

std::string RoleName(v1::UserRole role) {
  return absl::AsciiStrToLower(absl::StripPrefix(v1::UserRole_Name(role), "USER_ROLE_"));
}

v1::UserRole RoleNamed(const std::string& name) {
  v1::UserRole role = v1::USER_ROLE_UNSPECIFIED;
  v1::UserRole_Parse(absl::StrCat("USER_ROLE_", absl::AsciiStrToUpper(name)), &role);
  return role;
}

absl::StatusOr<v1::User> FindUser(const AdminClient& client, const UserOptions& options) {
  v1::ListUsersRequest request;
  request.set_party_name(options.party);
  GANTRY_ASSIGN_OR_RETURN(const v1::ListUsersResponse list, client.Call(&Users::ListUsers, request));
  for (const v1::User& user : list.users()) {
    if (user.email() == absl::AsciiStrToLower(options.email) && user.disabled_us() == 0) return user;
  }
  return absl::NotFoundError(absl::StrCat("`", options.party, "` has no user `", options.email,
                                          "`; `gantry user list --party ", options.party, "` shows those it has"));
}

absl::StatusOr<int> ShowToken(const v1::UserToken& made, const UserOptions& options, const Invocation& invocation) {
  if (made.token().empty()) {
    return absl::FailedPreconditionError(
        "an earlier call with this idempotency key made the token and showed it then; `gantry user token` makes a new "
        "one");
  }
  *invocation.out << made.token() << "\n";
  if (!options.quiet) {
    *invocation.out << "\ntoken of " << made.user().email() << ", " << RoleName(made.user().role()) << " of "
                    << made.user().party_name() << "; this is the only time it is shown\n"
                    << "with GANTRY_USER_TOKEN set to it, this program does what that user may do\n";
  }
  return 0;
}

absl::StatusOr<int> Create(const UserOptions& options, const Invocation& invocation) {
  v1::CreateUserRequest request;
  request.set_party_name(options.party);
  request.set_email(options.email);
  request.set_name(options.name);
  request.set_role(RoleNamed(options.role));
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::UserToken made,
                          client.CallOnce(&Users::CreateUser, request, options.idempotency_key));
  return ShowToken(made, options, invocation);
}

absl::StatusOr<int> NewToken(const UserOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::User user, FindUser(client, options));
  v1::RotateUserTokenRequest request;
  request.set_user_id(user.user_id());
  GANTRY_ASSIGN_OR_RETURN(const v1::UserToken made,
                          client.CallOnce(&Users::RotateUserToken, request, options.idempotency_key));
  return ShowToken(made, options, invocation);
}

absl::StatusOr<int> List(const UserOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  v1::ListUsersRequest request;
  request.set_party_name(options.party);
  GANTRY_ASSIGN_OR_RETURN(const v1::ListUsersResponse list, client.Call(&Users::ListUsers, request));
  if (options.json) {
    nlohmann::ordered_json json = nlohmann::ordered_json::array();
    for (const v1::User& user : list.users()) {
      json.push_back({{"id", absl::BytesToHexString(user.user_id())},
                      {"email", user.email()},
                      {"name", user.name()},
                      {"role", RoleName(user.role())},
                      {"created", FormatTimeJson(user.created_us())},
                      {"disabled", FormatTimeJson(user.disabled_us())}});
    }
    *invocation.out << json.dump(2) << "\n";
    return 0;
  }
  Table table({"EMAIL", "NAME", "ROLE", "SINCE (UTC)", "STATE"});
  for (const v1::User& user : list.users()) {
    table.Add({user.email().empty() ? "(erased)" : user.email(), user.name().empty() ? "-" : user.name(),
               RoleName(user.role()), FormatTime(user.created_us()), user.disabled_us() == 0 ? "active" : "disabled"});
  }
  *invocation.out << table.Render();
  return 0;
}

absl::StatusOr<int> SetRole(const UserOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::User user, FindUser(client, options));
  v1::SetUserRoleRequest request;
  request.set_user_id(user.user_id());
  request.set_role(RoleNamed(options.role));
  GANTRY_ASSIGN_OR_RETURN(const v1::User changed,
                          client.CallOnce(&Users::SetUserRole, request, options.idempotency_key));
  *invocation.out << changed.email() << " is " << RoleName(changed.role()) << " of " << changed.party_name() << "\n";
  return 0;
}

absl::StatusOr<int> Disable(const UserOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::User user, FindUser(client, options));
  v1::DisableUserRequest request;
  request.set_user_id(user.user_id());
  GANTRY_RETURN_IF_ERROR(client.CallOnce(&Users::DisableUser, request, options.idempotency_key).status());
  *invocation.out << user.email() << " is disabled; its token works no more\n";
  return 0;
}

absl::StatusOr<int> WhoAmI(const UserOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::WhoAmIResponse who, client.Call(&Users::WhoAmI, v1::WhoAmIRequest()));
  const std::string rights = absl::StrJoin(who.rights(), " ");
  if (options.json) {
    nlohmann::ordered_json json = {{"administrator", !who.has_user()}, {"rights", rights}};
    if (who.has_user()) {
      json["email"] = who.user().email();
      json["party"] = who.user().party_name();
      json["role"] = RoleName(who.user().role());
    }
    *invocation.out << json.dump(2) << "\n";
  } else if (who.has_user()) {
    *invocation.out << who.user().email() << ", " << RoleName(who.user().role()) << " of " << who.user().party_name()
                    << ": " << rights << "\n";
  } else {
    *invocation.out << "the administrator of this installation: everything\n";
  }
  return 0;
}

}  // namespace

void AddUserCommands(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<UserOptions>();
  CLI::App* group = AddGroup(app, "user", "people who act for a party, and what they may do");
  const auto add = [&](const char* name, const char* summary, const char* examples, auto run) {
    return AddCommand(*group, invocation, name, summary, examples,
                      [=, &invocation] { return run(*options, invocation); });
  };
  const auto add_user = [&](CLI::App* command) {
    command->add_option("EMAIL", options->email, "the user's address")->required();
    command->add_option("--party", options->party, "whose user")->required()->type_name("P");
  };
  const auto add_role = [&](CLI::App* command) {
    return command
        ->add_option("--role", options->role,
                     "owner: everything; admin: everything but owners; billing: prices, invoices, payments; developer: "
                     "keys and usage; auditor: sees everything")
        ->type_name("ROLE")
        ->check(CLI::IsMember(RoleNames()));
  };

  CLI::App* create = add("create", "make a user and show its token once",
                         "gantry user create ada@acme.example --party acme --role owner\n"
                         "TOKEN=$(gantry user create bot@north.example --party north --role billing --quiet)",
                         Create);
  add_user(create);
  add_role(create)->required();
  create->add_option("--name", options->name, "for people, at most 128 bytes")->type_name("TEXT");
  create->add_flag("--quiet", options->quiet, "print the token alone");
  AddIdempotencyKey(*create, &options->idempotency_key);

  CLI::App* list = add("list", "users of a party", "gantry user list --party acme --json", List);
  list->add_option("--party", options->party, "whose users")->required()->type_name("P");
  list->add_flag("--json", options->json, "as JSON");

  CLI::App* role =
      add("role", "give a user another role", "gantry user role ada@acme.example --party acme --role billing", SetRole);
  add_user(role);
  add_role(role)->required();
  AddIdempotencyKey(*role, &options->idempotency_key);

  CLI::App* token = add("token", "replace a user's token; the one before ends at once",
                        "gantry user token ada@acme.example --party acme", NewToken);
  add_user(token);
  token->add_flag("--quiet", options->quiet, "print the token alone");
  AddIdempotencyKey(*token, &options->idempotency_key);

  CLI::App* disable =
      add("disable", "end a user, now and for good", "gantry user disable ada@acme.example --party acme", Disable);
  add_user(disable);
  AddIdempotencyKey(*disable, &options->idempotency_key);

  CLI::App* who = add("whoami", "for whom this program calls, and what that one may do",
                      "GANTRY_USER_TOKEN=gk_user_… gantry user whoami", WhoAmI);
  who->add_flag("--json", options->json, "as JSON");
}

}  // namespace gantry::cli
