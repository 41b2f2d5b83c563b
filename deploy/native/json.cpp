#include "json.hpp"

#include <cctype>
#include <cmath>
#include <cstdio>
#include <stdexcept>

class JsonParser {
public:
    explicit JsonParser(const std::string& text) : text_(text) {}

    Json document() {
        Json value = this->value();
        blank();
        if (at_ != text_.size()) fail("something behind its end");
        return value;
    }

private:
    [[noreturn]] void fail(const std::string& what) const {
        throw std::runtime_error("damaged JSON at byte " + std::to_string(at_) + ": " + what);
    }

    void blank() {
        while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
    }

    char peek() {
        blank();
        if (at_ == text_.size()) fail("it ends too early");
        return text_[at_];
    }

    bool take(char expected) {
        if (peek() != expected) return false;
        ++at_;
        return true;
    }

    void demand(char expected) {
        if (!take(expected)) fail(std::string("expected ") + expected);
    }

    Json value() {
        switch (peek()) {
            case '{': return object();
            case '[': return list();
            case '"': return string();
            default: return scalar();
        }
    }

    Json object() {
        Json result;
        result.kind_ = Json::Kind::object;
        demand('{');
        if (take('}')) return result;
        do {
            if (peek() != '"') fail("expected a name");
            std::string name = string().text_;
            demand(':');
            result.members_.emplace_back(std::move(name), value());
        } while (take(','));
        demand('}');
        return result;
    }

    Json list() {
        Json result;
        result.kind_ = Json::Kind::list;
        demand('[');
        if (take(']')) return result;
        do result.items_.push_back(value());
        while (take(','));
        demand(']');
        return result;
    }

    Json string() {
        Json result;
        result.kind_ = Json::Kind::text;
        demand('"');
        while (at_ < text_.size() && text_[at_] != '"') {
            if (text_[at_] == '\\') ++at_;
            if (at_ < text_.size()) result.text_ += text_[at_++];  // \uXXXX stays as it is: names are plain
        }
        demand('"');
        return result;
    }

    Json scalar() {
        size_t end = at_;
        while (end < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[end])) ||
                                      std::string("+-.").find(text_[end]) != std::string::npos))
            ++end;
        const std::string word = text_.substr(at_, end - at_);
        Json result;
        if (word == "true" || word == "false") {
            result.kind_ = Json::Kind::boolean;
            result.number_ = word == "true";
        } else if (word != "null") {
            size_t used = 0;
            try {
                result.number_ = std::stod(word, &used);
            } catch (const std::exception&) {
                used = 0;
            }
            if (used == 0 || used != word.size()) fail("expected a value");
            result.kind_ = Json::Kind::number;
        }
        at_ = end;
        return result;
    }

    const std::string& text_;
    size_t at_ = 0;
};

Json Json::parse(const std::string& text) { return JsonParser(text).document(); }

namespace {
template <class T>
const T& known(bool right, const T& value, const char* kind) {
    if (!right) throw std::runtime_error(std::string("expected ") + kind);
    return value;
}
}  // namespace

double Json::number() const { return known(kind_ == Kind::number, number_, "a number"); }
const std::string& Json::text() const { return known(kind_ == Kind::text, text_, "a text"); }
const std::vector<Json>& Json::items() const { return known(kind_ == Kind::list, items_, "a list"); }
const std::vector<std::pair<std::string, Json>>& Json::members() const {
    return known(kind_ == Kind::object, members_, "an object");
}

const Json* Json::find(const std::string& name) const {
    for (const auto& [key, value] : members())
        if (key == name) return &value;
    return nullptr;
}

const Json& Json::at(const std::string& name) const {
    if (const Json* found = find(name)) return *found;
    throw std::runtime_error("there is no '" + name + "'");
}

bool Json::operator==(const Json& other) const {
    const bool numbers = number_ == other.number_ || (std::isnan(number_) && std::isnan(other.number_));
    if (kind_ != other.kind_ || !numbers || text_ != other.text_ || !(items_ == other.items_)) return false;
    if (members_.size() != other.members_.size()) return false;
    for (const auto& [name, value] : members_) {
        const Json* same = other.find(name);
        if (same == nullptr || !(value == *same)) return false;
    }
    return true;
}

namespace {
std::string quoted(const std::string& text) {
    std::string result = "\"";
    for (char letter : text) {
        if (letter == '"' || letter == '\\') result += '\\';
        result += letter;
    }
    return result + "\"";
}

std::string written(double value) {
    if (!std::isfinite(value)) return "null";
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.17g", value);
    return digits;
}
}  // namespace

JsonObject& JsonObject::field(const std::string& name, const std::string& value) {
    fields_ += (fields_.empty() ? "" : ", ") + quoted(name) + ": " + value;
    return *this;
}

JsonObject& JsonObject::text(const std::string& name, const std::string& value) { return field(name, quoted(value)); }
JsonObject& JsonObject::number(const std::string& name, double value) { return field(name, written(value)); }
JsonObject& JsonObject::flag(const std::string& name, bool value) { return field(name, value ? "true" : "false"); }
JsonObject& JsonObject::null(const std::string& name) { return field(name, "null"); }
JsonObject& JsonObject::object(const std::string& name, const JsonObject& value) { return field(name, value.str()); }

JsonObject& JsonObject::numbers(const std::string& name, const std::vector<double>& values) {
    std::string list;
    for (double value : values) list += (list.empty() ? "" : ", ") + written(value);
    return field(name, "[" + list + "]");
}
