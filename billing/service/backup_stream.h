// The server's side of BillingAdmin.CreateBackup: a copy of the database made between commits, then read from the disk
// as fast as the caller takes it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>

#include "billing/service/services.h"
#include "gantry/v1/admin.pb.h"

namespace gantry::billing {

// `busy`: one backup at a time; outlives the call, like `context`. No user may have one: it holds everybody's secrets.
grpc::ServerWriteReactor<v1::BackupChunk>* StreamBackup(const Context* context, grpc::CallbackServerContext* call,
                                                        std::atomic<bool>* busy);

// What a crash in the middle of a backup left in the data dir.
void RemoveBackupCopies(const std::string& data_dir);

}  // namespace gantry::billing
