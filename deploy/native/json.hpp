// JSON, as far as a manifest has it: read as a tree, written as one object.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

class Json {
public:
    static Json parse(const std::string& text);  // throws std::runtime_error where it is damaged

    bool is_null() const { return kind_ == Kind::null; }
    double number() const;
    const std::string& text() const;
    const std::vector<Json>& items() const;
    // Members in the order of the file, which is that of the arrays in a golden file.
    const std::vector<std::pair<std::string, Json>>& members() const;
    const Json& at(const std::string& name) const;
    const Json* find(const std::string& name) const;  // null where there is no such member
    bool operator==(const Json& other) const;         // whatever the order of members

private:
    enum class Kind { null, boolean, number, text, list, object };
    friend class JsonParser;
    Kind kind_ = Kind::null;
    double number_ = 0;
    std::string text_;
    std::vector<Json> items_;
    std::vector<std::pair<std::string, Json>> members_;
};

// An object under construction: fields in the order in which they are added.
class JsonObject {
public:
    JsonObject& text(const std::string& name, const std::string& value);
    JsonObject& number(const std::string& name, double value);  // NaN is written as null
    JsonObject& flag(const std::string& name, bool value);
    JsonObject& null(const std::string& name);
    JsonObject& numbers(const std::string& name, const std::vector<double>& values);
    JsonObject& object(const std::string& name, const JsonObject& value);
    std::string str() const { return "{" + fields_ + "}"; }

private:
    JsonObject& field(const std::string& name, const std::string& value);
    std::string fields_;
};
