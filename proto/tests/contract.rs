//! The `.proto` files against the contract: every rpc, every field, its name, number, type and label.
//!
//! The table is a transcript of what other people's programs speak, so it is the files that follow
//! the table, and not the other way round. What is in one and not in the other fails.

use std::collections::BTreeMap;

use axwatch_proto::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

/// A line is `package.Name: member, member …`; a line that starts with blanks goes on with the last.
const CONTRACT: &str = "
protocol.DomainPluginService:
  Metadata Empty -> MetadataResponse,
  Initialize InitializeRequest -> InitializeResponse,
  Shutdown Empty -> Empty,
  HandleHTTP HTTPRequest -> HTTPResponse,
  HandleWebSocket stream WebSocketMessage -> stream WebSocketMessage,
  Health Empty -> HealthResponse,
  ConfigSchema Empty -> ConfigSchemaResponse,
  RegisterGlyphs Empty -> GlyphDefResponse,
  ExecuteJob ExecuteJobRequest -> ExecuteJobResponse,
  ParseAxQuery ParseAxQueryRequest -> ParseAxQueryResponse

protocol.Empty:
protocol.MetadataResponse: name string=1, version string=2, qntx_version string=3,
  description string=4, author string=5, license string=6
protocol.InitializeRequest: ats_store_endpoint string=1, queue_endpoint string=2,
  auth_token string=3, config map<string,string>=4, schedule_endpoint string=5,
  file_service_endpoint string=6, llm_endpoint string=7, embedding_endpoint string=8,
  vector_search_endpoint string=9, ground_endpoint string=10, search_endpoint string=11,
  fetch_endpoint string=12, host_endpoint string=100
protocol.InitializeResponse: handler_names repeated string=1, schedules repeated ScheduleInfo=2,
  llm_provider bool=3, watchers repeated WatcherRegistration=4, vector_search_provider bool=5,
  search_provider bool=6, embedding_provider bool=7, http_routes repeated RouteInfo=8,
  python_provider bool=9, stored_handlers bool=100
protocol.ScheduleInfo: handler_name string=1, interval_seconds int32=2, enabled_by_default bool=3,
  description string=4, ats_code string=5, id string=100
protocol.RouteInfo: method string=1, path string=2, description string=3
protocol.WatcherRegistration: id string=1, handler_name string=2, subjects repeated string=3,
  predicates repeated string=4, contexts repeated string=5, actors repeated string=6,
  max_fires_per_second int32=7, ax string=100, params bytes=101, max_chain int32=102,
  since string=103
protocol.ExecuteJobRequest: job_id string=1, handler_name string=2, payload bytes=3,
  timeout_secs optional int64=4, params bytes=100, attempt int32=101, watcher string=102,
  revision int64=103, handler_version string=104, schedule string=105
protocol.ExecuteJobResponse: success bool=1, error string=2, result bytes=3,
  progress_current int32=4, progress_total int32=5, cost_actual double=6,
  log_entries repeated JobLogEntry=7, plugin_version string=8, retry_after_ms int64=100,
  permanent bool=101
protocol.JobLogEntry: timestamp string=1, level string=2, message string=3, stage string=4,
  metadata string=5
protocol.HTTPRequest: method string=1, path string=2, headers repeated HTTPHeader=3, body bytes=4
protocol.HTTPResponse: status_code int32=1, headers repeated HTTPHeader=2, body bytes=3
protocol.HTTPHeader: name string=1, values repeated string=2
protocol.WebSocketMessage: type WebSocketMessage.Type=1, data bytes=2,
  headers map<string,string>=3, timestamp int64=4
protocol.WebSocketMessage.Type: CONNECT=0, DATA=1, CLOSE=2, PING=3, PONG=4, ERROR=5
protocol.HealthResponse: healthy bool=1, message string=2, details map<string,string>=3
protocol.ConfigSchemaResponse: fields map<string,ConfigFieldSchema>=1
protocol.ConfigFieldSchema: type string=1, description string=2, default_value string=3,
  required bool=4, min_value string=5, max_value string=6, pattern string=7, element_type string=8
protocol.GlyphDefResponse: glyphs repeated GlyphDef=1
protocol.GlyphDef: symbol string=1, title string=2, label string=3, content_path string=4,
  css_path string=5, default_width int32=6, default_height int32=7, module_path string=8
protocol.ParseAxQueryRequest: query string=1
protocol.ParseAxQueryResponse: result bytes=1, error string=2

protocol.ATSStoreService:
  CreateAttestation CreateAttestationRequest -> CreateAttestationResponse,
  AttestationExists AttestationExistsRequest -> AttestationExistsResponse,
  GenerateAndCreateAttestation GenerateAttestationRequest -> GenerateAttestationResponse,
  BatchGenerateAndCreateAttestations
    BatchGenerateAttestationRequest -> BatchGenerateAttestationResponse,
  GetAttestations GetAttestationsRequest -> GetAttestationsResponse,
  GetAttestationsStream GetAttestationsRequest -> stream Attestation

protocol.Attestation: id string=1, subjects repeated string=2, predicates repeated string=3,
  contexts repeated string=4, actors repeated string=5, timestamp int64=6, source string=7,
  attributes google.protobuf.Struct=8, created_at int64=9, signature bytes=10,
  signer_did string=11, seq int64=100
protocol.AttestationCommand: subjects repeated string=1, predicates repeated string=2,
  contexts repeated string=3, actors repeated string=4, timestamp optional int64=5,
  attributes google.protobuf.Struct=6, source string=7, source_version string=8,
  id string=100, job_id string=101, attempt int32=102
protocol.AttestationFilter: subjects repeated string=1, predicates repeated string=2,
  contexts repeated string=3, actors repeated string=4, time_start optional int64=5,
  time_end optional int64=6, limit optional int32=7
protocol.CreateAttestationRequest: auth_token string=1, attestation Attestation=2,
  job_id string=101, attempt int32=102
protocol.CreateAttestationResponse: success bool=1, error string=2
protocol.AttestationExistsRequest: auth_token string=1, id string=2
protocol.AttestationExistsResponse: exists bool=1
protocol.GenerateAttestationRequest: auth_token string=1, command AttestationCommand=2
protocol.GenerateAttestationResponse: success bool=1, error string=2, attestation Attestation=3
protocol.BatchGenerateAttestationRequest: auth_token string=1,
  commands repeated AttestationCommand=2
protocol.BatchGenerateAttestationResponse: success bool=1, error string=2, created int32=3
protocol.GetAttestationsRequest: auth_token string=1, filter AttestationFilter=2, ax string=100
protocol.GetAttestationsResponse: success bool=1, error string=2,
  attestations repeated Attestation=3

protocol.QueueService:
  Enqueue EnqueueRequest -> EnqueueResponse,
  GetJob GetJobRequest -> GetJobResponse,
  UpdateJob UpdateJobRequest -> UpdateJobResponse,
  ListJobs ListJobsRequest -> ListJobsResponse

protocol.Job: id string=1, handler_name string=2, payload bytes=3, source string=4,
  status string=5, progress Progress=6, cost_estimate double=7, cost_actual double=8,
  pulse_state PulseState=9, error string=10, parent_job_id string=11, retry_count int32=12,
  created_at int64=13, started_at int64=14, completed_at int64=15
protocol.Progress: current int32=1, total int32=2
protocol.PulseState: calls_this_minute int32=1, calls_remaining int32=2, spend_today double=3,
  spend_this_month double=4, budget_remaining double=5, is_paused bool=6, pause_reason string=7
protocol.EnqueueRequest: auth_token string=1, job Job=2, priority int32=100
protocol.EnqueueResponse: success bool=1, error string=2, job_id string=3, deduplicated bool=100
protocol.GetJobRequest: auth_token string=1, job_id string=2, without_payload bool=100
protocol.GetJobResponse: success bool=1, error string=2, job Job=3
protocol.UpdateJobRequest: auth_token string=1, job Job=2, attempt int32=101,
  log_entries repeated JobLogEntry=102
protocol.UpdateJobResponse: success bool=1, error string=2
protocol.ListJobsRequest: auth_token string=1, status string=2, limit optional int32=3,
  without_payload bool=100, before string=101
protocol.ListJobsResponse: success bool=1, error string=2, jobs repeated Job=3, next string=100

protocol.ScheduleService:
  CreateSchedule CreateScheduleRequest -> CreateScheduleResponse,
  PauseSchedule PauseScheduleRequest -> PauseScheduleResponse,
  ResumeSchedule ResumeScheduleRequest -> ResumeScheduleResponse,
  DeleteSchedule DeleteScheduleRequest -> DeleteScheduleResponse,
  GetSchedule GetScheduleRequest -> GetScheduleResponse

protocol.ScheduledJob: id string=1, ats_code string=2, handler_name string=3, payload bytes=4,
  source_url string=5, interval_seconds int32=6, next_run_at string=7, last_run_at string=8,
  last_execution_id string=9, state string=10, metadata string=11, created_at string=12,
  updated_at string=13, created_from_doc string=14
protocol.CreateScheduleRequest: auth_token string=1, handler_name string=2,
  interval_seconds int32=3, payload bytes=4, metadata map<string,string>=5
protocol.CreateScheduleResponse: success bool=1, error string=2, schedule_id string=3
protocol.PauseScheduleRequest: auth_token string=1, schedule_id string=2
protocol.PauseScheduleResponse: success bool=1, error string=2
protocol.ResumeScheduleRequest: auth_token string=1, schedule_id string=2
protocol.ResumeScheduleResponse: success bool=1, error string=2
protocol.DeleteScheduleRequest: auth_token string=1, schedule_id string=2
protocol.DeleteScheduleResponse: success bool=1, error string=2
protocol.GetScheduleRequest: auth_token string=1, schedule_id string=2, without_payload bool=100
protocol.GetScheduleResponse: success bool=1, error string=2, job ScheduledJob=3

axwatch.v1.PluginHost: Announce AnnounceRequest -> AnnounceResponse,
  StoredHandlers StoredHandlersRequest -> stream StoredHandler

axwatch.v1.AnnounceRequest: auth_token string=1, announcement protocol.InitializeResponse=2
axwatch.v1.AnnounceResponse: success bool=1, error string=2, refused repeated string=3
axwatch.v1.StoredHandlersRequest: auth_token string=1, version string=2
axwatch.v1.StoredHandler: name string=1, version string=2, seq int64=3, code string=4,
  faulted string=5
";

/// By full name, the members, in any order.
type Contract = BTreeMap<String, Vec<String>>;

#[test]
fn the_files_say_what_the_contract_says() {
    let (written, expected) = (read_descriptors(), read_table());
    let names = |contract: &Contract| contract.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&written), names(&expected), "messages, enums and services");
    for (name, members) in &expected {
        assert_eq!(&written[name], members, "{name}");
    }
}

/// A comment is all that a plugin's author sees of a field beside its name.
#[test]
fn everything_has_a_comment() {
    for file in our_files() {
        let described = file.source_code_info.as_ref().expect("comments are kept for reflection");
        for location in &described.location {
            // A path goes from the file down: 4, 5, 6 is a message, an enum, a service; below that 2, 3,
            // 4 a member, a nested message, a nested enum. Odd lengths are parts, such as a name.
            let path = &location.path;
            let element = matches!(path.first(), Some(4..=6))
                && path.len() % 2 == 0
                && path.iter().skip(2).step_by(2).all(|part| (2..=4).contains(part));
            let comment = location.leading_comments.as_deref().unwrap_or_default().trim();
            assert!(
                !element || !comment.is_empty(),
                "{} line {} has no comment",
                file.name(),
                location.span[0] + 1
            );
        }
    }
}

fn read_table() -> Contract {
    let mut lines = Vec::<String>::new();
    for line in CONTRACT.lines().filter(|line| !line.is_empty()) {
        match lines.last_mut() {
            Some(last) if line.starts_with(' ') => {
                *last += " ";
                *last += line.trim();
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.into_iter().map(|line| entry_of(&line)).collect()
}

fn entry_of(line: &str) -> (String, Vec<String>) {
    let (name, members) = line.split_once(':').expect("a line has a name");
    let members = members.split(", ").map(|member| member.trim().to_owned());
    (name.to_owned(), sorted(members.filter(|member| !member.is_empty())))
}

fn read_descriptors() -> Contract {
    let mut contract = Contract::new();
    for file in our_files() {
        let scope = file.package().to_owned();
        for message in &file.message_type {
            add_message(&scope, &scope, message, &mut contract);
        }
        for values in &file.enum_type {
            add_enum(&scope, values, &mut contract);
        }
        for service in &file.service {
            add_service(&scope, service, &mut contract);
        }
    }
    contract
}

fn our_files() -> impl Iterator<Item = prost_types::FileDescriptorProto> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the descriptors decode");
    set.file.into_iter().filter(|file| file.package() != "google.protobuf")
}

fn add_message(package: &str, scope: &str, message: &DescriptorProto, contract: &mut Contract) {
    let name = format!("{scope}.{}", message.name());
    for nested in message.nested_type.iter().filter(|nested| !is_map_entry(nested)) {
        add_message(package, &name, nested, contract);
    }
    for values in &message.enum_type {
        add_enum(&name, values, contract);
    }
    let members = message.field.iter().map(|field| member_of(package, message, field));
    contract.insert(name, sorted(members));
}

fn add_enum(scope: &str, values: &EnumDescriptorProto, contract: &mut Contract) {
    let members = values.value.iter().map(|value| format!("{}={}", value.name(), value.number()));
    contract.insert(format!("{scope}.{}", values.name()), sorted(members));
}

fn add_service(package: &str, service: &ServiceDescriptorProto, contract: &mut Contract) {
    let side = |streams: bool, name: &str| {
        format!("{}{}", if streams { "stream " } else { "" }, local(package, name))
    };
    let members = service.method.iter().map(|rpc| {
        let request = side(rpc.client_streaming(), rpc.input_type());
        let response = side(rpc.server_streaming(), rpc.output_type());
        format!("{} {request} -> {response}", rpc.name())
    });
    contract.insert(format!("{package}.{}", service.name()), sorted(members));
}

fn member_of(package: &str, message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let map = message.nested_type.iter().find(|nested| {
        is_map_entry(nested)
            && field.type_name().ends_with(&format!(".{}.{}", message.name(), nested.name()))
    });
    let meaning = match map {
        Some(entry) => {
            let [key, value] = [0, 1].map(|i| type_of(package, &entry.field[i]));
            format!("map<{key},{value}>")
        }
        None if field.label() == Label::Repeated => format!("repeated {}", type_of(package, field)),
        None if field.proto3_optional() => format!("optional {}", type_of(package, field)),
        None => type_of(package, field),
    };
    format!("{} {meaning}={}", field.name(), field.number())
}

fn type_of(package: &str, field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => local(package, field.type_name()).to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

/// A map is a repeated message that the compiler makes up.
fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry())
}

/// The name as written inside its package.
fn local<'a>(package: &str, full: &'a str) -> &'a str {
    let full = full.trim_start_matches('.');
    full.strip_prefix(package).and_then(|rest| rest.strip_prefix('.')).unwrap_or(full)
}

fn sorted(members: impl Iterator<Item = String>) -> Vec<String> {
    let mut members = members.collect::<Vec<_>>();
    members.sort();
    members
}
